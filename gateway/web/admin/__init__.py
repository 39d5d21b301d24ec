"""What admins see and do: everybody's accounts, upstreams, prices, the ledger. Acts are those of the desk, so that each leaves
its audit row."""

from gateway.web.admin import audit, keys, money, requests, users

ROUTES = (*users.ROUTES, *money.ROUTES, *keys.ROUTES, *requests.ROUTES, *audit.ROUTES)
