"""What users see of their own: wallet, keys, requests, settings. A page here asks for the signed-in user's things and no other's:
whatever an id in its path names, the look-up takes the user's own id too, and what is not theirs is not there."""

from gateway.web.dashboard import keys, overview, settings, usage, wallet

ROUTES = (*overview.ROUTES, *keys.ROUTES, *usage.ROUTES, *wallet.ROUTES, *settings.ROUTES)
