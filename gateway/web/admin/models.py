"""/admin/models: the catalogue in force. Of each model what the list says and who says so, what users of each plan pay and by
which factors, and where a request for it goes, with how that stands.

Everything here is declared (settings) or in memory (router, health); the database is not asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

from gateway.access import DEFAULT_PLAN
from gateway.catalog import Model, load_builtin, load_sources
from gateway.errors import ClientError
from gateway.house import House
from gateway.money import ONE, Factor
from gateway.pricing import Rates
from gateway.router import Deployment
from gateway.web.offers import CLASSES, Offer, offer_of
from gateway.web.page import Page, Route
from gateway.web.standing import STATES, Standing, reason_words, standing_of
from gateway.web.text import MINUS

PATH = "/admin/models"


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the catalogue in force: as it is, who says so, and what the built-in catalogue says, None if that is the same
    or it says nothing."""

    name: str
    value: Any
    origin: str
    builtin: Any = None


@dataclass(frozen=True, slots=True)
class Line:
    """One class of tokens: its list price, and what each plan pays, in the order of the plans; nanos per million."""

    listed: Value
    paid: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """One route: who serves, how it stands, the factors between list and price there, and the two for input and output."""

    deployment: Deployment
    member: Model
    stand: Standing
    factors: tuple[tuple[str, Factor], ...]
    offer: Offer


@dataclass(frozen=True, slots=True)
class Shown:
    """A line of the table: the model, its price of the default plan, whose its list prices are, its places in order."""

    model: Model
    offer: Offer
    origin: str
    places: tuple[Place, ...]

    @property
    def serving(self) -> int:
        return sum(place.stand.state == "serving" for place in self.places)


async def show_models(page: Page) -> None:
    house = page.house
    stands = {upstream["name"]: upstream for upstream in page.desk.upstreams.show()}
    opened = page.query.get("open")
    if opened is not None and opened not in {model.id for model in house.walk.catalog}:
        raise ClientError("not_found", "No model of this name is served here. The page of models lists them all.")
    read_on, sources = load_sources()
    plans = sorted(house.settings.plans.values(), key=lambda plan: (plan.name != DEFAULT_PLAN, plan.name))
    await page.show(
        "admin/models.html",
        shown=[_show(house, model, stands) for model in house.walk.catalog],
        opened=opened,
        detail=None if opened is None else _detail(house, opened, [plan.name for plan in plans]),
        plans=plans,
        house_factor=house.settings.billing.factor,
        read_on=read_on,
        sources=sources,
        one=ONE,
        states=STATES,
        product=product,
        reason_words=reason_words,
        change=change,
    )


ROUTES = (Route(PATH, "admin/models", "admin", get=show_models),)


def product(factors: list[Factor]) -> str:
    """All of them as one decimal: 1.25 and 0.9 are 1.125."""
    number = Decimal(1)
    for factor in factors:
        number *= Decimal(factor.numerator) / Decimal(factor.denominator)
    return format(number.normalize(), "f")


def change(nanos: int, list_nanos: int) -> str:
    """How far a price lies from the list's, as −10 % or +12.5 %."""
    if not list_nanos:
        return "not on the list"
    share = format((Decimal(nanos) / list_nanos - 1) * 100, ".1f").removesuffix(".0")
    return f"{share.replace('-', MINUS) if share.startswith('-') else '+' + share} %"


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def _builtin() -> dict[str, Model]:
    return {model.id: model for model in load_builtin()}


def _show(house: House, model: Model, stands: dict[str, dict[str, Any]]) -> Shown:
    places = tuple(_place(house, model, deployment, stands) for deployment in _in_order(house, model))
    return Shown(model, offer_of(house, model), _origin(model), places)


def _in_order(house: House, model: Model) -> list[Deployment]:
    """As they are asked while all are well; among equals the weights decide."""
    return sorted(house.walk.router.deployments(model.id), key=lambda each: (each.rank, each.priority))


def _place(house: House, model: Model, deployment: Deployment, stands: dict[str, dict[str, Any]]) -> Place:
    settings = house.settings
    member = house.walk.catalog.members(model)[deployment.rank]
    upstream = next(each for each in settings.upstreams if each.name == deployment.upstream)
    route = next(
        each for each in settings.routes[member.id] if (each.upstream, each.model) == (deployment.upstream, deployment.model)
    )
    chain = (("house", settings.billing.factor), ("upstream", upstream.factor), ("route", route.factor))
    whole = stands[deployment.upstream]
    stand = standing_of(next((each for each in whole["resting_models"] if each["model"] == deployment.model), whole))
    return Place(
        deployment,
        member,
        stand,
        tuple((name, factor) for name, factor in chain if factor != ONE),
        offer_of(house, model, deployment=deployment),
    )


def _origin(model: Model) -> str:
    """Who says the list prices: catalogue, changed (by the configuration), configuration, or served (as its models)."""
    if model.serves and model.priced_as_served:
        return "served"
    known = _builtin().get(model.id)
    if known is None:
        return "configuration"
    same = (known.price.rates, known.price.tier_rates) == (model.price.rates, model.price.tier_rates)
    return "catalogue" if same else "changed"


def _detail(house: House, model_id: str, plans: list[str]) -> dict[str, Any]:
    model = house.walk.catalog.find(model_id)
    assert model is not None
    known = _builtin().get(model.id)
    offers = [offer_of(house, model, plan) for plan in plans]
    rates = _rates(model, model.price.rates, known.price.rates if known else None)
    above = known.price.tier_rates if known and known.price.tier_above_tokens == model.price.tier_above_tokens else None
    tier = _rates(model, model.price.tier_rates, above) if model.price.tier_rates else []
    return {
        "lines": [Line(value, tuple(offer.rates()[index].nanos for offer in offers)) for index, value in enumerate(rates)],
        "tier": [Line(value, tuple(offer.tier_rates()[index].nanos for offer in offers)) for index, value in enumerate(tier)],
        "searches": Line(
            _value(model, "Web search", model.price.web_search // 1000, known.price.web_search // 1000 if known else None),
            tuple(offer.web_search_nanos for offer in offers),
        ),
        "multipliers": offers[0].multipliers,
        "facts": [
            _value(model, label, getattr(model, name), getattr(known, name) if known else None)
            for name, label in (
                ("display_name", "Name"),
                ("description", "Best for"),
                ("context_tokens", "Context"),
                ("max_output_tokens", "Longest answer"),
            )
        ],
    }


def _rates(model: Model, rates: Rates, known: Rates | None) -> list[Value]:
    return [
        _value(model, label, getattr(rates, name), getattr(known, name) if known else None) for name, label in CLASSES.items()
    ]


def _value(model: Model, name: str, value: Any, known: Any) -> Value:
    """Of an entry that repeats what the catalogue says, the catalogue is told: it makes no difference."""
    if known is not None and known == value:
        return Value(name, value, "catalogue")
    if known is None and model.serves and name not in ("Name", "Best for"):
        return Value(name, value, "served")
    return Value(name, value, "configuration", known)
