"""What admins see and do: everybody's accounts, upstreams, prices, the ledger. Acts are those of the desk, so that each leaves
its audit row."""

from gateway.web.admin import audit, invites, keys, ledger, models, money, overview, requests, system, upstreams, users, vouchers

ROUTES = (
    *overview.ROUTES,
    *users.ROUTES,
    *money.ROUTES,
    *keys.ROUTES,
    *requests.ROUTES,
    *upstreams.ROUTES,
    *models.ROUTES,
    *vouchers.ROUTES,
    *invites.ROUTES,
    *ledger.ROUTES,
    *audit.ROUTES,
    *system.ROUTES,
)
