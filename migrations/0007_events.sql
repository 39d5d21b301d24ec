-- What operators look back at: how provider accounts stood, when the process lived, and what audits found.
begin immediate;

-- Each time that an account, or one of its models, was not asked: derived by no query, as health lives in memory. Written as it
-- happens (gateway/desk/upstream_events.py), kept for some days.
create table upstream_events (
  id          integer primary key,
  boot_id     integer not null references boots (id),
  upstream    text    not null,                                      -- its name in the configuration
  model       text    not null,                                      -- the upstream's name for it; '' = all of the account
  state       text    not null check (state in ('cooling', 'rejected', 'disabled')),
  cause       text    not null,                                      -- as gateway/health.py has it; '' if disabled
  reason      text    not null,                                      -- the last failure's: status_529, connect …
  began_at_ms integer not null,
  until_ms    integer,                                               -- when the last rest is over; null if disabled
  ended_at_ms integer,                                               -- when it answered again; null: it has not yet
  asked_ms    integer,                                               -- how long the provider asked us to wait, if it did
  rests       integer not null check (rests > 0)                     -- how often it was put to rest within this event
) strict;
create index upstream_events_by_end on upstream_events (ended_at_ms);

-- The last sign of life, some minutes apart: what lies between it and the next start is a gap. Null before this release.
alter table boots add column seen_at_ms integer;

-- The latest audits, clean or not: a restart forgets no finding.
create table audits (
  id               integer primary key,
  at_ms            integer not null,                                 -- when it ended
  took_ms          integer not null,
  by               text    not null,                                 -- start, hourly, daily, or the actor who asked for it
  whole            integer not null check (whole in (0, 1)),
  from_transfer_id integer not null,                                 -- it looked at what is above
  to_transfer_id   integer not null,
  findings         text    not null                                  -- JSON: [{invariant, count, rows}]
) strict;
create index audits_by_scope on audits (whole, id);

pragma user_version = 7;
commit;
