"""Importing this registers two objectives, a source and three metrics (OeMDM and LoMDM, arXiv 2602.02112)."""

from fewstep_orders.broken_checks import BrokenChecks
from fewstep_orders.fixed_order import FixedOrder
from fewstep_orders.keys_and_checks import KeysAndChecks
from fewstep_orders.learned_order import LearnedOrder
from fewstep_orders.order_bound import OrderBound
from fewstep_orders.order_separation import OrderSeparation

__all__ = ["BrokenChecks", "FixedOrder", "KeysAndChecks", "LearnedOrder", "OrderBound", "OrderSeparation"]
