"""From a folder of data to a bundle: fingerprint, plan, bundle.

:func:`take_fingerprint` opens every file and measures the facts that the rules need. :func:`make_plan` makes the
choices, each with a reason. :func:`fit_plan` runs some real iterations and scales the plan until they fit.
:func:`write_bundle` writes the nearest shipped bundle with the values of the plan.
"""

from monai_diffscore.exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "bundle": "write_bundle",
        "card": "commands describe",
        "fingerprint": "Fingerprint Problem",
        "fitting": "fit_plan",
        "kinds": "find_kind kind_of_cases",
        "plan": "Budget Choice Plan",
        "rules": "make_plan",
        "survey": "take_fingerprint",
        "trial": "Trial fork_server run_trial",
    },
)
