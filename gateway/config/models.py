"""The models of a configuration: entries that are each in order, laid over the built-in catalogue, and who serves each model.

What an entry does not say stays as the catalogue has it. A model that is not in the catalogue must say everything that money
depends on: five prices, of which none can be derived from another (PRICES.md), and its sizes. A virtual model stands for others,
in order; it costs what they cost, and reads and writes as much as all of them can, unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from gateway.catalog import Catalog, Model
from gateway.config.errors import Findings, nearest, shown
from gateway.config.sections import ModelOptions
from gateway.config.upstreams import Upstream
from gateway.money import ONE, Factor, parse_usd
from gateway.pricing import Price, Rates

# 10 USD per 1,000, as every Claude model has it. A new model that does not say takes it: a price on searches that never
# happen costs nobody anything, searches without a price would.
WEB_SEARCH_DEFAULT_NANOS = parse_usd("10000")

PRICE_OPTIONS = Rates.__slots__
REQUIRED_OPTIONS = (*PRICE_OPTIONS, "context_tokens", "max_output_tokens")
MULTIPLIER_OPTIONS = ("fast", "us", "batch")
# What may stand beside five prices, and means nothing without them.
_PRICE_DETAILS = ("web_search", "tier_above_tokens", "tier", *MULTIPLIER_OPTIONS)


@dataclass(frozen=True, slots=True)
class Route:
    """One deployment: the upstream's name, the name that the model goes by there, and a multiplier on its price there."""

    upstream: str
    model: str
    factor: Factor = ONE


Routes = Mapping[str, tuple[Route, ...]]


def build_models(
    builtin: Sequence[Model],
    entries: Sequence[tuple[int, ModelOptions]],
    upstreams: Sequence[Upstream],
    findings: Findings,
) -> tuple[Catalog, Routes, list[str]]:
    """The models that are served, catalogue first and virtual ones last; the routes of each but the virtual (at least one, to
    enabled upstreams only); and warnings.

    Of two entries with one id the first counts; that they are two is told before (`findings`).
    """
    known = Catalog(builtin)
    models = {model.id: model for model in builtin}
    routes = {model.id: default_routes(model, upstreams) for model in builtin}
    owners = {name: model.id for model in builtin for name in model.names}
    seen: set[str] = set()
    virtual: dict[str, tuple[int, ModelOptions, tuple[str, ...]]] = {}
    warnings: list[str] = []
    for position, options in entries:
        where = ("models", position)
        if options.id in seen:
            continue
        if owners.get(options.id, options.id) != options.id:
            findings.add((*where, "id"), f"this is an alias of {owners[options.id]}; write that id to change the model")
            continue
        seen.add(options.id)
        if options.serves is not None and options.id in models:
            findings.add((*where, "serves"), f"{options.id} is in the catalogue; a virtual model needs an id of its own")
            continue
        aliases = _own_aliases(options, position, owners, findings)
        if not findings.blames(*where, "tier") and not findings.blames(*where, "tier_above_tokens"):
            _check_tier(options, position, findings)
        if options.serves is not None or findings.blames(*where, "serves"):
            virtual[options.id] = position, options, aliases
            continue
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
    routed = _enabled(routes, upstreams, seen, warnings)
    served = {model.id: model for model in models.values() if routed.get(model.id)}
    names = _Names(owners, frozenset(models), served, frozenset(virtual))
    made = [_virtual(*entry, names, findings, warnings) for entry in virtual.values()]
    used = {route.upstream for model_id in served for route in routed[model_id]}
    for upstream in upstreams:
        if upstream.enabled and upstream.name not in used:
            warnings.append(f"upstreams[{upstream.name}] serves no model: no [[models]] routes to it.")
    catalog = Catalog([*served.values(), *(model for model in made if model is not None)])
    return catalog, MappingProxyType({model_id: routed[model_id] for model_id in served}), warnings


def default_routes(model: Model, upstreams: Sequence[Upstream]) -> tuple[Route, ...]:
    """Every upstream of the model's kind; a demo serves everything where there is nothing but demos."""
    only_demos = all(upstream.kind == "demo" for upstream in upstreams)
    return tuple(Route(upstream.name, model.id) for upstream in upstreams if only_demos or upstream.kind in model.kinds)


def _enabled(
    routes: Mapping[str, tuple[Route, ...]], upstreams: Sequence[Upstream], written: Collection[str], warnings: list[str]
) -> dict[str, tuple[Route, ...]]:
    """The routes to enabled upstreams; warns of models that have had others only."""
    enabled = {upstream.name for upstream in upstreams if upstream.enabled}
    routed = {model_id: tuple(route for route in found if route.upstream in enabled) for model_id, found in routes.items()}
    without = [model_id for model_id, found in routes.items() if found and not routed[model_id]]
    for model_id in without:
        if model_id in written:
            warnings.append(f"models[{model_id}] is not served: every upstream that it is routed to is disabled.")
    if others := sum(model_id not in written for model_id in without):
        warnings.append(f"{others} of the catalogue's models are not served: every upstream of their kind is disabled.")
    return routed


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
        route = Route(route_options.upstream, route_options.model or options.id, route_options.factor)
        if any((route.upstream, route.model) == (earlier.upstream, earlier.model) for earlier in routes):
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
    """Whether prices are written for a model of two sets of them, and do not say what becomes of the second."""
    repriced = any(getattr(options, name) is not None for name in PRICE_OPTIONS)
    return known.price.tier_rates is not None and repriced and options.tier is None


def _check_tier(options: ModelOptions, position: int, findings: Findings) -> None:
    if (options.tier is None) != (options.tier_above_tokens is None):
        written, missing = ("tier_above_tokens", "tier") if options.tier is None else ("tier", "tier_above_tokens")
        findings.add(("models", position, written), f"needs {missing} beside it: what the prices are, and above which prompt")


def _blank(model_id: str) -> Model:
    price = Price(model_id, Rates(0, 0, 0, 0, 0), web_search=WEB_SEARCH_DEFAULT_NANOS)
    return Model(model_id, display_name=model_id, description="", price=price, context_tokens=0, max_output_tokens=0)


def _changed(model: Model, options: ModelOptions, aliases: tuple[str, ...]) -> Model:
    prices = {name: getattr(options, name) for name in PRICE_OPTIONS if getattr(options, name) is not None}
    price = replace(model.price, rates=replace(model.price.rates, **prices))
    details = ("web_search", *MULTIPLIER_OPTIONS)
    price = replace(price, **{name: getattr(options, name) for name in details if getattr(options, name) is not None})
    if len(prices) == len(PRICE_OPTIONS):
        price = replace(price, tier_above_tokens=None, tier_rates=None)
        model = replace(model, price_assumed=False, price_read_on="")
    if options.tier is not None:
        tier_rates = Rates(**{name: getattr(options.tier, name) for name in PRICE_OPTIONS})
        price = replace(price, tier_above_tokens=options.tier_above_tokens, tier_rates=tier_rates)
    plain = ("display_name", "description", "context_tokens", "max_output_tokens")
    written = {name: getattr(options, name) for name in plain if getattr(options, name) is not None}
    names = dict.fromkeys((*model.aliases, *aliases))
    names.pop(model.id, None)
    return replace(model, price=price, aliases=tuple(names), **written)


# ── virtual models ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Names:
    """What `serves` may name: whose each name is, which models there are in service or not, and which are virtual."""

    owners: Mapping[str, str]
    models: Collection[str]
    served: Mapping[str, Model]
    virtual: Collection[str]


def _virtual(
    position: int, options: ModelOptions, aliases: tuple[str, ...], names: _Names, findings: Findings, warnings: list[str]
) -> Model | None:
    """A model that stands for others; None if something is wrong with it, or none of them is in service."""
    where = ("models", position)
    if options.routes is not None:
        findings.add((*where, "routes"), "a virtual model goes where those that it serves go; remove routes, or serves")
    priced = _has_own_price(options, position, findings)
    members = _members(options, position, names, findings, warnings)
    if findings.blames(*where):
        return None
    if not members:
        warnings.append(f"{findings.name(where)} is not served: none of the models that it serves is in service.")
        return None
    first = members[0]
    model = replace(
        _blank(options.id),
        context_tokens=min(member.context_tokens for member in members),
        max_output_tokens=min(member.max_output_tokens for member in members),
        serves=tuple(member.id for member in members),
        priced_as_served=not priced,
    )
    if not priced:
        assumed = any(member.price_assumed for member in members)
        model = replace(model, price=first.price, price_read_on=first.price_read_on, price_assumed=assumed)
    return _changed(model, options, aliases)


def _has_own_price(options: ModelOptions, position: int, findings: Findings) -> bool:
    where = ("models", position)
    written = [name for name in (*PRICE_OPTIONS, *_PRICE_DETAILS) if getattr(options, name) is not None]
    missing = [name for name in PRICE_OPTIONS if getattr(options, name) is None and not findings.blames(*where, name)]
    if written and missing:
        needs = f"needs {', '.join(missing)} beside {written[0]}"
        findings.add(where, f"{needs}: a virtual model has all five prices, or none and costs what was served", noun="")
    return bool(written)


def _members(options: ModelOptions, position: int, names: _Names, findings: Findings, warnings: list[str]) -> list[Model]:
    """Those in service, in the order in which they are written; findings say which cannot be served, warnings which are not."""
    where = ("models", position, "serves")
    members: list[Model] = []
    seen: set[str] = set()
    if options.serves == ():
        findings.add(where, "names no model; it takes the ids of one or more, the first preferred")
    for index, name in enumerate(options.serves or ()):
        model_id = names.owners.get(name)
        place = (*where, index)
        if model_id is None:
            near = nearest(name, [known for known, owner in names.owners.items() if owner not in names.virtual])
            hint = f"; did you mean {shown(near)}?" if near else ""
            findings.add(place, f"there is no model {shown(name)}{hint}")
        elif model_id == options.id:
            findings.add(place, "a virtual model cannot serve itself")
        elif model_id in names.virtual:
            findings.add(place, f"{shown(name)} is virtual itself; name the models that it serves")
        elif model_id in seen:
            findings.add(place, f"{shown(name)} is there twice")
        elif model_id in names.served:
            members.append(names.served[model_id])
        elif model_id in names.models:
            warnings.append(f"{findings.name(where)}: {model_id} is out of service and left out.")
        # Else the model's own entry is not in order, and that is told there.
        seen.add(model_id or name)
    return members
