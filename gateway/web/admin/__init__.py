"""What admins see and do: everybody's accounts, upstreams, prices, the ledger. Acts are those of the desk, so that each leaves
its audit row."""

from gateway.web.admin import audit, keys, ledger, money, overview, system, users

ROUTES = (
    *overview.ROUTES,
    *users.ROUTES,
    *money.ROUTES,
    *keys.ROUTES,
    *ledger.ROUTES,
    *audit.ROUTES,
    *system.ROUTES,
)
