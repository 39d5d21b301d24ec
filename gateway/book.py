"""The wallet book: who may spend what, decided in memory, one decision after another.

    available = balance − held                       a hold moves available → held
    admit ──▶ open hold ──▶ raise / lower ──▶ settle or void, exactly once

The book decides; the database proves (its CHECKs must never fire). Everything here is synchronous and belongs to the event
loop: no await can fall between a question and its answer, so nothing can be spent twice. The caller queues every decision for
the writer in the order in which it was taken. Knows nothing of SQL, prices or requests. Amounts are nanos (LEDGER.md; the
pattern is RFC 8506's credit control: reserve, raise, settle).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gateway.errors import ClientError, HouseError, LedgerError
from gateway.money import NANOS_MAX, NANOS_PER_USD, ceil_div, format_usd

# How long a conversation whose stream was cut for want of money is answered 402 without asking anew: Claude Code repeats a
# cut turn silently, not streamed, and that repeat must not reach the upstream.
DRY_MS = 60_000
# People are told sums to the hundredth of a cent.
_SHOWN_NANOS = NANOS_PER_USD // 10_000


class BalanceTooLow(ClientError):
    """Even the whole balance is below what the request needs: 402."""

    def __init__(self, need_nanos: int, wallet: Wallet) -> None:
        super().__init__("balance_too_low", _funds_text(need_nanos, wallet) + " Top up the wallet to go on.", should_retry=False)


class RanDry(ClientError):
    """A stream outgrew what the wallet could pay, or its conversation comes again right after that: 402."""

    def __init__(self, wallet: Wallet) -> None:
        super().__init__(
            "balance_too_low",
            f"This conversation used up what the wallet could pay (balance ${_shown(wallet.balance_nanos)}, held by running "
            f"requests ${_shown(wallet.held_nanos)}); what was delivered is charged. Top up the wallet to go on.",
            should_retry=False,
        )


class BalanceHeld(ClientError):
    """The balance would do, but running requests hold it: 429, and worth another try soon."""

    def __init__(self, need_nanos: int, wallet: Wallet) -> None:
        super().__init__(
            "balance_held",
            _funds_text(need_nanos, wallet) + " Running requests hold the rest; try again when they have ended.",
            retry_after_s=5,
        )


@dataclass(slots=True)
class Wallet:
    id: int
    balance_nanos: int = 0
    held_nanos: int = 0
    owed_nanos: int = 0
    frozen: bool = False
    dry_until_ms: dict[str, int] = field(default_factory=dict)

    @property
    def available_nanos(self) -> int:
        return self.balance_nanos - self.held_nanos


@dataclass(slots=True)
class Hold:
    """Money reserved for one running request. `changes` counts the raises and lowers so far.

    `collectable_nanos` is what it held when another request of its wallet ran beyond the money: what of that comes free pays
    the overrun first.
    """

    id: int
    wallet_id: int
    amount_nanos: int
    changes: int = 0
    resolved: bool = False
    collectable_nanos: int = 0


@dataclass(frozen=True, slots=True)
class Resolution:
    """How a hold ended. cost = pay + overrun; all amounts ≥ 0.

    `pay` goes wallet → revenue; `overrun` loss → revenue (remembered as owed); `collected` of earlier overruns wallet → loss.
    """

    hold_id: int
    wallet_id: int
    released_nanos: int
    settled: bool
    pay_nanos: int = 0
    overrun_nanos: int = 0
    collected_nanos: int = 0


class Book:
    """`on_release(wallet_id)` is called whenever money becomes available: who waits for it may ask again.

    It only wakes and never asks by itself: what it would admit would be queued before the release that paid for it.
    """

    def __init__(self, on_release: Callable[[int], None] = lambda wallet_id: None) -> None:
        self._wallets: dict[int, Wallet] = {}
        self._holds: dict[int, Hold] = {}
        self._on_release = on_release

    def open_wallet(self, wallet: Wallet) -> None:
        # Only a wallet that the audit froze may come with money that no request holds.
        assert wallet.id not in self._wallets and (wallet.held_nanos == 0 or wallet.frozen)
        self._wallets[wallet.id] = wallet

    def wallet(self, wallet_id: int) -> Wallet:
        return self._wallets[wallet_id]

    def wallets(self) -> Iterator[Wallet]:
        return iter(self._wallets.values())

    def open_holds(self) -> Iterator[Hold]:
        return iter(self._holds.values())

    # ── a request's money ────────────────────────────────────────────────────────────────────────────────────────────

    def admit(
        self, hold_id: int, wallet_id: int, need_nanos: int, want_nanos: int, *, conversation: str = "", now_ms: int = 0
    ) -> Hold:
        """Reserve between `need_nanos` and `want_nanos` of what is available in the wallet.

        Raises BalanceTooLow if even the balance is below need, RanDry if this conversation just ran dry, BalanceHeld if
        only running holds are in the way, HouseError if the wallet is frozen.
        """
        assert 0 <= need_nanos <= want_nanos and hold_id not in self._holds
        wallet = self._wallets[wallet_id]
        if wallet.frozen:
            raise frozen_error()
        if wallet.dry_until_ms and self._is_dry(wallet, conversation, now_ms):
            raise RanDry(wallet)
        if wallet.balance_nanos < need_nanos:
            raise BalanceTooLow(need_nanos, wallet)
        if wallet.available_nanos < need_nanos:
            raise BalanceHeld(need_nanos, wallet)
        hold = Hold(hold_id, wallet_id, min(want_nanos, wallet.available_nanos))
        wallet.held_nanos += hold.amount_nanos
        self._holds[hold_id] = hold
        return hold

    def raise_to(self, hold: Hold, target_nanos: int) -> int:
        """Raise towards `target_nanos` as far as is available; returns what was added, possibly 0."""
        assert not hold.resolved
        wallet = self._wallets[hold.wallet_id]
        delta = 0 if wallet.frozen else max(0, min(target_nanos - hold.amount_nanos, wallet.available_nanos))
        return self._change(wallet, hold, delta)

    def lower_to(self, hold: Hold, target_nanos: int) -> int:
        """Give back what is above `target_nanos`; returns the change, 0 or negative."""
        assert not hold.resolved and target_nanos >= 0
        return self._change(self._wallets[hold.wallet_id], hold, min(0, target_nanos - hold.amount_nanos))

    def settle(self, hold: Hold, cost_nanos: int) -> Resolution:
        """Charge `cost_nanos` and release the hold. Never refused: what the wallet cannot pay becomes owed."""
        assert cost_nanos >= 0
        wallet = self._release(hold)
        pay = min(cost_nanos, wallet.available_nanos)
        wallet.balance_nanos -= pay
        collected = self._collect(wallet, hold, max(0, hold.amount_nanos - pay))
        overrun = cost_nanos - pay
        if overrun:
            self._owe(wallet, overrun)
        self._on_release(wallet.id)
        return Resolution(hold.id, wallet.id, hold.amount_nanos, True, pay, overrun, collected)

    def void(self, hold: Hold) -> Resolution:
        """Release the hold without a charge."""
        wallet = self._release(hold)
        collected = self._collect(wallet, hold, hold.amount_nanos)
        self._on_release(wallet.id)
        return Resolution(hold.id, wallet.id, hold.amount_nanos, False, collected_nanos=collected)

    def disown(self, hold: Hold) -> None:
        """Release a hold that the database refused: no row can tell of it, so nothing may be collected from it either."""
        self._on_release(self._release(hold).id)

    def mark_dry(self, wallet_id: int, conversation: str, now_ms: int) -> None:
        """Answer this conversation 402 for a minute, or until a deposit."""
        if conversation:
            self._wallets[wallet_id].dry_until_ms[conversation] = now_ms + DRY_MS

    # ── the operator's money ─────────────────────────────────────────────────────────────────────────────────────────

    def deposit(self, wallet_id: int, amount_nanos: int) -> None:
        """What a committed deposit adds."""
        assert amount_nanos > 0
        wallet = self._wallets[wallet_id]
        wallet.balance_nanos += amount_nanos
        wallet.dry_until_ms.clear()
        self._on_release(wallet_id)

    def check_deposit(self, wallet_id: int, amount_nanos: int) -> None:
        """Raises LedgerError if the wallet could not hold that much."""
        if self._wallets[wallet_id].balance_nanos + amount_nanos > NANOS_MAX:
            raise LedgerError("invalid_request", "the wallet cannot hold that much; withdraw first")

    def withdraw(self, wallet_id: int, amount_nanos: int) -> None:
        """Take what is available, before the database is asked; give it back with `deposit` if the job is refused."""
        assert amount_nanos > 0
        wallet = self._wallets[wallet_id]
        if amount_nanos > wallet.available_nanos:
            raise LedgerError(
                "balance_too_low",
                f"only ${format_usd(wallet.available_nanos)} can be withdrawn: balance ${format_usd(wallet.balance_nanos)}, "
                f"held by running requests ${format_usd(wallet.held_nanos)}",
            )
        wallet.balance_nanos -= amount_nanos

    def freeze(self, wallet_id: int, frozen: bool = True) -> None:
        self._wallets[wallet_id].frozen = frozen

    # ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _change(self, wallet: Wallet, hold: Hold, delta_nanos: int) -> int:
        if delta_nanos:
            hold.amount_nanos += delta_nanos
            hold.changes += 1
            wallet.held_nanos += delta_nanos
            if delta_nanos < 0:
                self._on_release(wallet.id)
        return delta_nanos

    def _release(self, hold: Hold) -> Wallet:
        assert not hold.resolved, "a hold resolves once"
        hold.resolved = True
        del self._holds[hold.id]
        wallet = self._wallets[hold.wallet_id]
        wallet.held_nanos -= hold.amount_nanos
        return wallet

    def _owe(self, wallet: Wallet, overrun_nanos: int) -> None:
        """All that was left is in the wallet's other holds: what they do not need is owed. A later deposit is not."""
        wallet.owed_nanos += overrun_nanos
        for hold in self._holds.values():
            if hold.wallet_id == wallet.id:
                hold.collectable_nanos = hold.amount_nanos

    @staticmethod
    def _collect(wallet: Wallet, hold: Hold, freed_nanos: int) -> int:
        """Overruns are paid from what the holds of that time set free, never from later deposits."""
        collected = min(wallet.owed_nanos, freed_nanos, hold.collectable_nanos)
        wallet.owed_nanos -= collected
        wallet.balance_nanos -= collected
        return collected

    @staticmethod
    def _is_dry(wallet: Wallet, conversation: str, now_ms: int) -> bool:
        wallet.dry_until_ms = {name: until for name, until in wallet.dry_until_ms.items() if until > now_ms}
        return conversation in wallet.dry_until_ms


def frozen_error() -> HouseError:
    """By the operator, or because the ledger met a contradiction; either way only the operator can lift it."""
    return HouseError("unavailable", "This wallet is frozen; nothing was charged. Ask the operator.", should_retry=False)


def _funds_text(need_nanos: int, wallet: Wallet) -> str:
    """What is needed is rounded upwards, so that the sentence stays true."""
    need = format_usd(ceil_div(need_nanos, _SHOWN_NANOS) * _SHOWN_NANOS)
    return (
        f"The wallet cannot pay for this request: needed up to ${need}, available ${_shown(wallet.available_nanos)} "
        f"(balance ${_shown(wallet.balance_nanos)}, held by running requests ${_shown(wallet.held_nanos)})."
    )


def _shown(nanos: int) -> str:
    """What is there, rounded downwards."""
    return format_usd(nanos // _SHOWN_NANOS * _SHOWN_NANOS)
