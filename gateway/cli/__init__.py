"""The command line: `pagegrid <noun> <verb>`, one file per noun. Thin: parse, call the desk, print."""

from __future__ import annotations

import click

from gateway.cli.admin_keys import admin_keys
from gateway.cli.audit import audit
from gateway.cli.backup import backup
from gateway.cli.check import check
from gateway.cli.config import config
from gateway.cli.context import Program, where_options
from gateway.cli.doctor import doctor
from gateway.cli.invites import invites
from gateway.cli.keys import keys
from gateway.cli.ledger import ledger
from gateway.cli.models import models
from gateway.cli.plans import plans
from gateway.cli.reload import reload
from gateway.cli.serve import serve
from gateway.cli.upstreams import upstreams
from gateway.cli.usage import usage
from gateway.cli.users import users
from gateway.cli.vouchers import vouchers
from gateway.cli.wallets import wallets
from gateway.version import VERSION


@click.group(name="pagegrid", cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@where_options
@click.version_option(VERSION, prog_name="pagegrid")
def main() -> None:
    """PageGrid: a self-hosted AI gateway. `pagegrid serve` works at once, without any configuration."""


for command in (
    *(serve, reload, users, invites, wallets, vouchers, keys, admin_keys, usage, models, plans, upstreams),
    *(ledger, audit, backup, config, check, doctor),
):
    main.add_command(command)
