-- The ground: people, keys, and the ledger (docs: LEDGER.md in the project's design, README "Money").
-- Money is integer nano-USD, times are integer milliseconds UTC, booleans 0/1. STRICT still takes '12' and NaN-as-NULL, so
-- Python checks types and every money column is NOT NULL.
begin immediate;

create table users (
  id            integer primary key,
  name          text    not null unique,
  email         text    unique,
  role          text    not null check (role in ('admin', 'user')),
  disabled      integer not null default 0 check (disabled in (0, 1)),
  created_at_ms integer not null
) strict;

create table keys (
  id            integer primary key,
  user_id       integer not null references users (id),
  name          text    not null,
  hash          blob    not null unique check (length(hash) = 32),   -- SHA-256 of the whole secret
  hint          text    not null,                                    -- the first characters, which is what people are shown
  rpm           integer not null check (rpm >= 0),                   -- requests per minute, 0 = unlimited
  models        text,                                                -- JSON array of model ids; null = all
  expires_at_ms integer,
  revoked_at_ms integer,                                             -- may lie ahead: the grace period of a rotation
  rotated_from  integer references keys (id),
  created_at_ms integer not null
) strict;
create index keys_by_user on keys (user_id);

-- One row per start that may write: a hold knows in which life of the process it was opened.
create table boots (
  id            integer primary key,
  started_at_ms integer not null,
  version       text    not null
) strict;

create table accounts (
  id            integer primary key,
  kind          text    not null check (kind in ('wallet', 'external', 'promo', 'revenue', 'loss')),
  name          text    not null unique,
  user_id       integer unique references users (id),
  balance_nanos integer not null default 0 check (abs(balance_nanos) <= 4611686018427387904),
  held_nanos    integer not null default 0,
  owed_nanos    integer not null default 0 check (owed_nanos >= 0),  -- overruns not yet collected
  frozen        integer not null default 0 check (frozen in (0, 1)),
  check ((kind = 'wallet') = (user_id is not null)),
  check (case kind when 'wallet' then held_nanos >= 0 and balance_nanos >= held_nanos else held_nanos = 0 and owed_nanos = 0 end)
) strict;

insert into accounts (id, kind, name) values
  (1, 'external', 'external:manual'),
  (2, 'promo',    'promo'),
  (3, 'revenue',  'revenue'),
  (4, 'loss',     'loss');

-- The ledger. One row moves one positive amount from one account to another; balance = credits − debits.
create table transfers (
  id             integer primary key,                                -- gapless, given by the writer
  at_ms          integer not null,
  kind           text    not null check (kind in
                   ('deposit', 'promo', 'promo_reversed', 'withdraw', 'settle', 'overrun', 'overrun_collected')),
  debit_account  integer not null references accounts (id),
  credit_account integer not null references accounts (id),
  amount_nanos   integer not null check (amount_nanos > 0 and amount_nanos <= 4611686018427387904),
  reference      text    not null,                                   -- requests: 'request:<id>'; deposits: the operator's
  note           text    not null default '',
  check (debit_account <> credit_account)
) strict;
create unique index transfers_once on transfers (kind, reference);
create index transfers_by_debit on transfers (debit_account, id);
create index transfers_by_credit on transfers (credit_account, id) where kind in ('deposit', 'promo');

-- Money reserved for a running request. The amount is what was admitted; raises and lowers are rows of their own.
create table holds (
  id             integer primary key,                                -- the request's id
  wallet_id      integer not null references accounts (id),
  key_id         integer not null references keys (id),
  boot_id        integer not null references boots (id),
  model          text    not null,
  amount_nanos   integer not null check (amount_nanos >= 0),
  opened_at_ms   integer not null,
  state          text    not null check (state in ('open', 'settled', 'void')),
  resolved_at_ms integer,
  reason         text,                                               -- why void; 'unknown' after a crash with nothing seen
  check ((state = 'open') = (resolved_at_ms is null))
) strict;
create index holds_open on holds (wallet_id) where state = 'open';

create table hold_changes (
  hold_id     integer not null references holds (id),
  number      integer not null,
  delta_nanos integer not null check (delta_nanos <> 0),
  primary key (hold_id, number)
) strict, without rowid;

-- Price terms as they applied, interned: a usage row points to the row that priced it, and later edits change nothing.
create table prices (
  id    integer primary key,
  terms text    not null unique,                                     -- canonical JSON, see gateway/pricing.py
  at_ms integer not null
) strict;

-- One narrow row per request that cost something or could have: ledger, kept for ever.
create table usage (
  request_id            integer primary key references holds (id),
  at_ms                 integer not null,
  wallet_id             integer not null references accounts (id),
  key_id                integer not null references keys (id),
  model                 text    not null,
  upstream              text    not null,
  upstream_model        text    not null,
  price_id              integer not null references prices (id),
  input_tokens          integer not null check (input_tokens >= 0),
  output_tokens         integer not null check (output_tokens >= 0),
  cache_write_5m_tokens integer not null check (cache_write_5m_tokens >= 0),
  cache_write_1h_tokens integer not null check (cache_write_1h_tokens >= 0),
  cache_read_tokens     integer not null check (cache_read_tokens >= 0),
  web_searches          integer not null check (web_searches >= 0),
  speed                 text    not null default '',
  geography             text    not null default '',
  cost_nanos            integer not null check (cost_nanos >= 0),
  paid_nanos            integer not null check (paid_nanos >= 0 and paid_nanos <= cost_nanos),
  source                text    not null check (source in ('reported', 'estimated', 'partial', 'recovered')),
  flags                 text    not null default ''                  -- blank-separated: model_mismatch, unknown_usage:NAME …
) strict;

-- What a running stream has cost so far, written once a second; what a crash is settled from. Gone when the hold resolves.
create table progress (
  hold_id               integer primary key references holds (id),
  at_ms                 integer not null,
  upstream              text    not null,
  upstream_model        text    not null,
  price_id              integer not null references prices (id),
  input_tokens          integer not null,
  output_tokens         integer not null,
  cache_write_5m_tokens integer not null,
  cache_write_1h_tokens integer not null,
  cache_read_tokens     integer not null,
  web_searches          integer not null,
  speed                 text    not null,
  geography             text    not null,
  cost_nanos            integer not null check (cost_nanos >= 0)
) strict;

-- Detail, pruned after a while: what was tried, and what the request looked like from outside.
create table attempts (
  request_id          integer not null references holds (id),
  number              integer not null,
  upstream            text    not null,
  upstream_model      text    not null,
  status              integer,                                       -- null: no answer
  reason              text    not null,                              -- ok, connect, timeout, status_529, unbilled …
  started_at_ms       integer not null,
  duration_ms         integer not null,
  cost_nanos          integer not null check (cost_nanos >= 0),
  upstream_request_id text    not null default '',
  primary key (request_id, number)
) strict, without rowid;
create index attempts_by_upstream_request on attempts (upstream_request_id) where upstream_request_id <> '';

create table request_details (
  request_id     integer primary key references holds (id),
  stream         integer not null check (stream in (0, 1)),
  status         integer not null,                                   -- what the client was answered
  session        text    not null default '',
  agent          text    not null default '',
  address        text    not null default '',
  admitted_ms    integer not null,                                   -- from the head of the request, as the next two
  first_byte_ms  integer,
  total_ms       integer not null
) strict;

-- A clean audit up to a transfer: later audits start here.
create table checkpoints (
  transfer_id integer primary key,
  request_id  integer not null,
  at_ms       integer not null,
  balances    text    not null                                       -- JSON object account id → balance_nanos
) strict;

create table audit_log (
  id      integer primary key,
  at_ms   integer not null,
  actor   text    not null,
  action  text    not null,
  subject text    not null,
  before  text,
  after   text
) strict;

-- Append-only, also for `insert or replace` (the writer sets recursive_triggers).
create trigger transfers_no_update before update on transfers begin select raise(abort, 'transfers are append-only'); end;
create trigger transfers_no_delete before delete on transfers begin select raise(abort, 'transfers are append-only'); end;
create trigger prices_no_update before update on prices begin select raise(abort, 'prices are append-only'); end;
create trigger prices_no_delete before delete on prices begin select raise(abort, 'prices are append-only'); end;
create trigger usage_no_update before update on usage begin select raise(abort, 'usage is append-only'); end;
create trigger usage_no_delete before delete on usage begin select raise(abort, 'usage is append-only'); end;
create trigger hold_changes_no_update before update on hold_changes begin select raise(abort, 'hold changes are append-only'); end;
create trigger hold_changes_no_delete before delete on hold_changes begin select raise(abort, 'hold changes are append-only'); end;
create trigger audit_log_no_update before update on audit_log begin select raise(abort, 'the audit log is append-only'); end;
create trigger audit_log_no_delete before delete on audit_log begin select raise(abort, 'the audit log is append-only'); end;
create trigger holds_no_delete before delete on holds begin select raise(abort, 'holds are kept'); end;
create trigger holds_resolve_once before update on holds
  when old.state <> 'open'
    or new.id <> old.id or new.wallet_id <> old.wallet_id or new.key_id <> old.key_id or new.boot_id <> old.boot_id
    or new.amount_nanos <> old.amount_nanos or new.opened_at_ms <> old.opened_at_ms or new.model <> old.model
  begin select raise(abort, 'a hold resolves once and its amount stays'); end;

pragma user_version = 1;
commit;
