-- Roll-ups: sums over `usage` that reports read. Derived, so without foreign keys; how they stay exact is told in
-- gateway/storage/rollups.py. Keys begin with the time: new rows go to the end, old ones are cut off in one piece.
begin immediate;

create table usage_hours (
  hour_at_ms            integer not null,                            -- the hour's beginning, UTC; by the time of the settle
  wallet_id             integer not null,
  key_id                integer not null,
  model                 text    not null,
  requests              integer not null,
  input_tokens          integer not null,
  output_tokens         integer not null,
  cache_write_5m_tokens integer not null,
  cache_write_1h_tokens integer not null,
  cache_read_tokens     integer not null,
  web_searches          integer not null,
  cost_nanos            integer not null,
  paid_nanos            integer not null,
  estimated_requests    integer not null,                            -- of `requests`, by source; the rest are 'reported'
  partial_requests      integer not null,
  recovered_requests    integer not null,
  upstream_nanos        integer not null,                            -- what its attempts cost at list price
  upstream_unknown      integer not null,                            -- requests of which no attempt is recorded
  first_request_id      integer not null,
  last_request_id       integer not null,
  primary key (hour_at_ms, wallet_id, key_id, model)
) strict, without rowid;

create table usage_days (
  day_at_ms             integer not null,
  wallet_id             integer not null,
  key_id                integer not null,
  model                 text    not null,
  requests              integer not null,
  input_tokens          integer not null,
  output_tokens         integer not null,
  cache_write_5m_tokens integer not null,
  cache_write_1h_tokens integer not null,
  cache_read_tokens     integer not null,
  web_searches          integer not null,
  cost_nanos            integer not null,
  paid_nanos            integer not null,
  estimated_requests    integer not null,
  partial_requests      integer not null,
  recovered_requests    integer not null,
  upstream_nanos        integer not null,
  upstream_unknown      integer not null,
  first_request_id      integer not null,
  last_request_id       integer not null,
  primary key (day_at_ms, wallet_id, key_id, model)
) strict, without rowid;

-- As usage_hours, by session and agent too: detail, pruned with it.
create table usage_sessions (
  hour_at_ms            integer not null,
  wallet_id             integer not null,
  key_id                integer not null,
  model                 text    not null,
  session               text    not null,
  agent                 text    not null,
  requests              integer not null,
  input_tokens          integer not null,
  output_tokens         integer not null,
  cache_write_5m_tokens integer not null,
  cache_write_1h_tokens integer not null,
  cache_read_tokens     integer not null,
  web_searches          integer not null,
  cost_nanos            integer not null,
  paid_nanos            integer not null,
  estimated_requests    integer not null,
  partial_requests      integer not null,
  recovered_requests    integer not null,
  upstream_nanos        integer not null,
  upstream_unknown      integer not null,
  first_request_id      integer not null,
  last_request_id       integer not null,
  primary key (hour_at_ms, wallet_id, key_id, model, session, agent)
) strict, without rowid;

-- One row: how far the roll-ups reach, and from when on there is detail.
create table rollup_mark (
  id             integer primary key check (id = 1),
  request_id     integer not null,                                   -- usage up to this id is in the roll-ups
  detail_from_ms integer not null                                    -- detail of what was settled before may be gone
) strict;
insert into rollup_mark (id, request_id, detail_from_ms) values (1, 0, 0);

pragma user_version = 4;
commit;
