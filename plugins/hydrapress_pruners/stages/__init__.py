"""The pruners: every stage of the family, with fields, ranges and paper."""

from .calibrated import Calibrated, CalibratedPruner, SparseGPT, Wanda
from .channels import Channels, ChannelScope, Target
from .initial import Grasp, InitialPruner, Snip
from .lottery_ticket import Control, LotteryTicket
from .magnitude import Magnitude, PruningSchedule
from .movement import Movement
from .n_m import NM
from .sensitivity import Sensitivity, What
from .slim import Slim
from .weights import Scope, WeightPruner

__all__ = [
    "NM",
    "Calibrated",
    "CalibratedPruner",
    "ChannelScope",
    "Channels",
    "Control",
    "Grasp",
    "InitialPruner",
    "LotteryTicket",
    "Magnitude",
    "Movement",
    "PruningSchedule",
    "Scope",
    "Sensitivity",
    "Slim",
    "Snip",
    "SparseGPT",
    "Target",
    "Wanda",
    "WeightPruner",
    "What",
]
