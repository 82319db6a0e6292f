"""The one training loop; trainers, distillers and quantization-aware training all call it."""

from .callback import Callback
from .plan import Loss, Optimizer, Schedule, TrainingPlan, rate_at, train

__all__ = ["Callback", "Loss", "Optimizer", "Schedule", "TrainingPlan", "rate_at", "train"]
