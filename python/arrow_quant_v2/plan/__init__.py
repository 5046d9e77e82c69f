"""What would happen to every tensor of a model, decided before any work."""

from arrow_quant_v2.plan.model_plan import ModelPlan, PlannedTensor

__all__ = ["ModelPlan", "PlannedTensor"]
