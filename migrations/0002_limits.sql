-- Limits with plans behind them, refunds, what was served by a batch, and the look-ups that pages need.
begin immediate;

-- The plan is a name in the configuration; a key's own limit of null is the plan's, 0 is unlimited.
alter table users add column plan text not null default 'default';
alter table users add column low_balance_nanos integer check (low_balance_nanos >= 0);     -- null: as configured, 0: never tell

alter table keys rename column rpm to rpm_before;
alter table keys add column rpm integer check (rpm >= 0);                                   -- requests per minute
update keys set rpm = rpm_before;
alter table keys drop column rpm_before;
alter table keys add column tpm integer check (tpm >= 0);                                   -- tokens per minute
alter table keys add column concurrent integer check (concurrent >= 0);
alter table keys add column requests_per_day integer check (requests_per_day >= 0);
alter table keys add column tokens_per_month integer check (tokens_per_month >= 0);
alter table keys add column spend_per_day_nanos integer check (spend_per_day_nanos >= 0);
alter table keys add column spend_per_month_nanos integer check (spend_per_month_nanos >= 0);
alter table keys add column spend_total_nanos integer check (spend_total_nanos >= 0);
alter table keys add column addresses text;                                                 -- JSON array of CIDR; null = the plan's
alter table keys add column factor text not null default '1';
-- The first key of a chain of rotations: limits are counted there, so that a rotation starts nothing anew.
alter table keys add column root_id integer references keys (id);
with recursive chain (id, root_id) as (
  select id, id from keys where rotated_from is null
  union all
  select k.id, c.root_id from keys as k join chain as c on k.rotated_from = c.id
)
update keys set root_id = (select root_id from chain where chain.id = keys.id);
create index keys_by_root on keys (root_id);

-- What the answer says of its service tier: a batch is cheaper.
alter table usage add column service_tier text not null default '';
alter table progress add column service_tier text not null default '';

-- In order of time for each: a rowid is a request's id.
create index usage_by_key on usage (key_id);
create index usage_by_wallet on usage (wallet_id);
create index holds_by_key on holds (key_id);

-- One more kind of transfer: a refund (revenue to wallet, reference 'request:<id>:<n>').
create table transfers_new (
  id             integer primary key,                                -- gapless, given by the writer
  at_ms          integer not null,
  kind           text    not null check (kind in
                   ('deposit', 'promo', 'promo_reversed', 'withdraw', 'settle', 'overrun', 'overrun_collected', 'refund')),
  debit_account  integer not null references accounts (id),
  credit_account integer not null references accounts (id),
  amount_nanos   integer not null check (amount_nanos > 0 and amount_nanos <= 4611686018427387904),
  reference      text    not null,                                   -- requests: 'request:<id>'; deposits: the operator's
  note           text    not null default '',
  check (debit_account <> credit_account)
) strict;
insert into transfers_new select * from transfers;
drop trigger transfers_no_delete;
drop trigger transfers_no_update;
drop table transfers;
alter table transfers_new rename to transfers;
create unique index transfers_once on transfers (kind, reference);
create index transfers_by_debit on transfers (debit_account, id);
create index transfers_by_credit on transfers (credit_account, id) where kind in ('deposit', 'promo', 'refund');
create trigger transfers_no_update before update on transfers begin select raise(abort, 'transfers are append-only'); end;
create trigger transfers_no_delete before delete on transfers begin select raise(abort, 'transfers are append-only'); end;

pragma user_version = 2;
commit;
