"""The plans of a configuration: what keys may do whose own settings do not say otherwise.

Every user has a plan. Who was given none has `default`, which is there in every house and may be declared like any other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from gateway.access import DEFAULT_PLAN, Plan
from gateway.catalog import Catalog
from gateway.config.errors import Findings, kind_of, shown
from gateway.config.sections import PlanOptions, is_plan_name
from gateway.limits import Terms

Plans = Mapping[str, Plan]


def build_plans(written: object, catalog: Catalog, known: Collection[str], findings: Findings) -> Plans:
    """The plans by name, `default` among them; findings say what is wrong with one.

    `catalog` has the models that are served, `known` the names of all that stand in the catalogue or in the file.
    """
    plans = dict(PLANS_WITHOUT_FILE)
    if not isinstance(written, dict):
        findings.add(("plans",), f"expected sections such as [plans.free] in single brackets, found {kind_of(written)}")
        return plans
    for name, options in written.items():
        if not is_plan_name(name):
            findings.add(("plans",), 'a plan is named by 1 to 32 letters, digits, ".", "_" and "-"', noun="section")
        elif not isinstance(options, dict):
            findings.add(("plans", name), f"expected a section [plans.{name}], found {kind_of(options)}")
        else:
            checked = _options(name, options, findings)
            models = None if checked.models is None else _models(name, checked.models, catalog, known, findings)
            plans[name] = _plan(name, checked, models)
    return MappingProxyType(plans)


def _options(name: str, written: dict[str, Any], findings: Findings) -> PlanOptions:
    try:
        return PlanOptions.model_validate(written)
    except ValidationError as error:
        findings.add_invalid(("plans", name), error)
        # What is wrong with the others is told in the same breath.
        right = {option: value for option, value in written.items() if not findings.blames("plans", name, option)}
        return PlanOptions.model_validate(right)


def _plan(name: str, options: PlanOptions, models: frozenset[str] | None) -> Plan:
    return Plan(
        name=name,
        terms=Terms(**{limit: getattr(options, limit) for limit in Terms.__slots__}),
        models=models,
        addresses=options.addresses,
        keys_expire=options.keys_expire,
        factor=options.factor,
        max_keys=options.max_keys,
    )


def _models(plan: str, names: tuple[str, ...], catalog: Catalog, known: Collection[str], findings: Findings) -> frozenset[str]:
    """Ids: the walk compares ids, so an alias is kept as the model that it names."""
    ids = set()
    for name in names:
        model = catalog.find(name)
        if model is not None:
            ids.add(model.id)
        elif name not in known:
            near = catalog.nearest(name)
            hint = f"; did you mean {shown(near)}?" if near else ""
            findings.add(("plans", plan, "models"), f"{shown(name)} is no model that is served here{hint}")
        elif not findings.blames("upstreams") and not findings.blames("models"):
            findings.add(("plans", plan, "models"), f"no upstream serves {shown(name)}")
        # Else that nobody serves it follows from what is told there.
    return frozenset(ids)


PLANS_WITHOUT_FILE: Plans = MappingProxyType({DEFAULT_PLAN: _plan(DEFAULT_PLAN, PlanOptions(), None)})
