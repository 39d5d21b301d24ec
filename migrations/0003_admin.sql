-- Keys of the admin API: a kind of their own, which no user has and no request for a model can use.
begin immediate;

create table admin_keys (
  id            integer primary key,
  name          text    not null,
  hash          blob    not null unique check (length(hash) = 32),   -- SHA-256 of the whole secret
  hint          text    not null,                                    -- the first characters, which is what people are shown
  created_by    text    not null,                                    -- the actor, as in audit_log
  created_at_ms integer not null,
  revoked_at_ms integer
) strict;

pragma user_version = 3;
commit;
