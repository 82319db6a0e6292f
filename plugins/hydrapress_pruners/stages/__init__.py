"""The pruners: every stage of the family, with fields, ranges and paper."""

from .initial import Grasp, InitialPruner, Snip
from .lottery_ticket import Control, LotteryTicket
from .magnitude import Magnitude, PruningSchedule
from .movement import Movement
from .weights import Scope, WeightPruner

__all__ = [
    "Control",
    "Grasp",
    "InitialPruner",
    "LotteryTicket",
    "Magnitude",
    "Movement",
    "PruningSchedule",
    "Scope",
    "Snip",
    "WeightPruner",
]
