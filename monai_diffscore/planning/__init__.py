"""A folder in, a ready bundle out: fingerprint, plan, bundle.

:func:`take_fingerprint` opens every file and measures what the rules need; :func:`make_plan` chooses, with a reason for
each choice; :func:`fit_plan` runs some real iterations and scales the plan until they fit; :func:`write_bundle` writes
the shipped bundle that is nearest, with the plan's values in it.
"""

from monai_diffscore.planning.bundle import write_bundle
from monai_diffscore.planning.card import commands, describe
from monai_diffscore.planning.fingerprint import Fingerprint, Problem
from monai_diffscore.planning.fitting import fit_plan
from monai_diffscore.planning.kinds import find_kind
from monai_diffscore.planning.plan import Budget, Choice, Plan
from monai_diffscore.planning.rules import make_plan
from monai_diffscore.planning.survey import take_fingerprint
from monai_diffscore.planning.trial import Trial, run_trial

__all__ = [
    "Budget",
    "Choice",
    "Fingerprint",
    "Plan",
    "Problem",
    "Trial",
    "commands",
    "describe",
    "find_kind",
    "fit_plan",
    "make_plan",
    "run_trial",
    "take_fingerprint",
    "write_bundle",
]
