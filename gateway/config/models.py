"""The models of a configuration: entries that are each in order, laid over the built-in catalogue, and who serves each model.

What an entry does not say stays as the catalogue has it. A model that is not in the catalogue must say everything that money
depends on: five prices, of which none can be derived from another (PRICES.md), and its sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from gateway.catalog import Catalog, Model
from gateway.config.errors import Findings, shown
from gateway.config.sections import ModelOptions
from gateway.config.upstreams import Upstream
from gateway.money import parse_usd
from gateway.pricing import Price, Rates

# 10 USD per 1,000, as every Claude model has it. A new model that does not say takes it: a price on searches that never
# happen costs nobody anything, searches without a price would.
WEB_SEARCH_DEFAULT_NANOS = parse_usd("10000")

PRICE_OPTIONS = Rates.__slots__
REQUIRED_OPTIONS = (*PRICE_OPTIONS, "context_tokens", "max_output_tokens")


@dataclass(frozen=True, slots=True)
class Route:
    """One deployment: the upstream's name, and the name that the model goes by there."""

    upstream: str
    model: str


Routes = Mapping[str, tuple[Route, ...]]


def build_models(
    builtin: Sequence[Model],
    entries: Sequence[tuple[int, ModelOptions]],
    upstreams: Sequence[Upstream],
    findings: Findings,
) -> tuple[Catalog, Routes, list[str]]:
    """The models that are served, catalogue first, the routes of each (at least one), and warnings.

    Of two entries with one id the first counts; that they are two is told before (`findings`).
    """
    known = Catalog(builtin)
    models = {model.id: model for model in builtin}
    routes = {model.id: default_routes(model, upstreams) for model in builtin}
    owners = {name: model.id for model in builtin for name in model.names}
    seen: set[str] = set()
    warnings: list[str] = []
    for position, options in entries:
        where = ("models", position)
        if options.id in seen:
            continue
        if owners.get(options.id, options.id) != options.id:
            findings.add((*where, "id"), f"this is an alias of {owners[options.id]}; write that id to change the model")
        else:
            seen.add(options.id)
            aliases = _own_aliases(options, position, owners, findings)
            model = _model(options, position, models.get(options.id), aliases, findings, warnings)
            if options.routes is not None:
                routes[options.id] = _routes(options, position, findings)
            elif options.id not in models and not findings.blames(*where, "routes"):
                findings.add(where, 'needs routes, such as routes = [{ upstream = "main" }]: it is not in the catalogue', noun="")
            # Whoever wrote a whole new model means it; an entry that lacks something may be a slip of the pen.
            near = known.nearest(options.id)
            if options.id not in models and near and findings.blames(*where):
                findings.add((*where, "id"), f"it is not in the catalogue; did you mean {near}?")
            if model is not None:
                models[options.id] = model
    served = [model for model in models.values() if routes.get(model.id)]
    used = {route.upstream for model in served for route in routes[model.id]}
    for upstream in upstreams:
        if upstream.name not in used:
            warnings.append(f"upstreams[{upstream.name}] serves no model: no [[models]] routes to it.")
    return Catalog(served), MappingProxyType({model.id: routes[model.id] for model in served}), warnings


def default_routes(model: Model, upstreams: Sequence[Upstream]) -> tuple[Route, ...]:
    """Every upstream of the model's kind; a demo serves everything where there is nothing but demos."""
    only_demos = all(upstream.kind == "demo" for upstream in upstreams)
    return tuple(Route(upstream.name, model.id) for upstream in upstreams if only_demos or upstream.kind in model.kinds)


def _own_aliases(options: ModelOptions, position: int, owners: dict[str, str], findings: Findings) -> tuple[str, ...]:
    """The aliases that are free or already this model's; they are taken, with its id, by entering them into `owners`."""
    owners[options.id] = options.id
    aliases = []
    for alias in options.aliases:
        owner = owners.setdefault(alias, options.id)
        if owner == options.id:
            aliases.append(alias)
        else:
            findings.add(("models", position, "aliases"), f"{shown(alias)} already names the model {owner}")
    return tuple(aliases)


def _routes(options: ModelOptions, position: int, findings: Findings) -> tuple[Route, ...]:
    routes: list[Route] = []
    for index, route_options in enumerate(options.routes or ()):
        route = Route(route_options.upstream, route_options.model or options.id)
        if route in routes:
            findings.add(("models", position, "routes", index), "the same route is written twice")
        else:
            routes.append(route)
    return tuple(routes)


def _model(
    options: ModelOptions,
    position: int,
    known: Model | None,
    aliases: tuple[str, ...],
    findings: Findings,
    warnings: list[str],
) -> Model | None:
    """The catalogue's model with what the entry changes, or a new one; None if something is missing from it."""
    required = () if known is not None and not _is_repriced_tier(options, known) else PRICE_OPTIONS
    where = ("models", position)
    unwritten = [name for name in (REQUIRED_OPTIONS if known is None else required) if getattr(options, name) is None]
    missing = [name for name in unwritten if not findings.blames(*where, name)]
    if missing and known is not None:
        above = known.price.tier_above_tokens
        reason = f"it has other prices above {above} prompt tokens, and yours replace both sets"
        findings.add(where, f"needs {', '.join(missing)} too: {reason}", noun="")
        return None
    if missing:
        findings.add(
            where, f"needs {', '.join(missing)}: it is not in the catalogue, and no price is derived from another", noun=""
        )
        return None
    if unwritten:
        return None
    if known is None:
        return _changed(_blank(options.id), options, aliases)
    if required:
        warnings.append(
            f"{findings.name(where)}: its prices replace those of the catalogue for prompts of every size, also above"
            f" {known.price.tier_above_tokens} tokens."
        )
    return _changed(known, options, aliases)


def _is_repriced_tier(options: ModelOptions, known: Model) -> bool:
    return known.price.tier_rates is not None and any(getattr(options, name) is not None for name in PRICE_OPTIONS)


def _blank(model_id: str) -> Model:
    price = Price(model_id, Rates(0, 0, 0, 0, 0), web_search=WEB_SEARCH_DEFAULT_NANOS)
    return Model(model_id, display_name=model_id, description="", price=price, context_tokens=0, max_output_tokens=0)


def _changed(model: Model, options: ModelOptions, aliases: tuple[str, ...]) -> Model:
    prices = {name: getattr(options, name) for name in PRICE_OPTIONS if getattr(options, name) is not None}
    price = replace(model.price, rates=replace(model.price.rates, **prices))
    if options.web_search is not None:
        price = replace(price, web_search=options.web_search)
    if len(prices) == len(PRICE_OPTIONS):
        price = replace(price, tier_above_tokens=None, tier_rates=None)
        model = replace(model, price_assumed=False, price_read_on="")
    plain = ("display_name", "description", "context_tokens", "max_output_tokens")
    written = {name: getattr(options, name) for name in plain if getattr(options, name) is not None}
    names = dict.fromkeys((*model.aliases, *aliases))
    names.pop(model.id, None)
    return replace(model, price=price, aliases=tuple(names), **written)
