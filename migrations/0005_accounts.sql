-- How people sign in to the pages, and what is given away: invites and vouchers. Of every secret only its SHA-256 is here (each is
-- random and long, so it needs no slow hash); passwords are argon2id. A TOTP secret must be there as it is: codes are made from it.
begin immediate;

-- Who signs in is looked up in whatever letters they write.
create index users_by_lower_name on users (lower(name));

create table passwords (
  user_id       integer primary key references users (id),
  hash          text    not null check (hash like '$argon2id$%'),    -- the encoded form: parameters, salt and hash
  changed_at_ms integer not null                                     -- by a person; a rehash leaves it
) strict;

-- Living sessions only: who signed in and out when is in the audit log.
create table sessions (
  id            integer primary key autoincrement,                   -- never given twice: pages and audit rows name it
  user_id       integer not null references users (id),
  hash          blob    not null unique check (length(hash) = 32),
  created_at_ms integer not null,
  seen_at_ms    integer not null,                                    -- some minutes late: see gateway/sessions.py
  expires_at_ms integer not null,
  address       text    not null,
  agent         text    not null
) strict;
create index sessions_by_user on sessions (user_id);

create table totp (
  user_id       integer primary key references users (id),
  secret        blob    not null check (length(secret) = 20),
  created_at_ms integer not null,
  enabled_at_ms integer,                                             -- null: shown, and not confirmed by a first code
  last_step     integer not null default 0                           -- the step of the last code that was taken; none below is
) strict;

create table recovery_codes (
  id            integer primary key,
  user_id       integer not null references users (id),
  hash          blob    not null check (length(hash) = 32),
  created_at_ms integer not null,
  used_at_ms    integer,
  unique (user_id, hash)
) strict;

-- One-time links by which a password is set without the old one.
create table sign_in_links (
  id            integer primary key,
  user_id       integer not null references users (id),
  hash          blob    not null unique check (length(hash) = 32),
  created_by    text    not null,                                    -- the actor, as in audit_log
  created_at_ms integer not null,
  expires_at_ms integer not null,
  ended_at_ms   integer                                              -- used, or replaced by a later one
) strict;
create index sign_in_links_by_user on sign_in_links (user_id);

create table invites (
  id            integer primary key,
  hash          blob    not null unique check (length(hash) = 32),
  credit_nanos  integer not null check (credit_nanos >= 0),          -- promo → wallet, reference 'invite:<id>'
  plan          text    not null,
  email         text,                                                -- whom the operator means; becomes the user's
  note          text    not null,
  created_by    text    not null,
  created_at_ms integer not null,
  expires_at_ms integer not null,
  revoked_at_ms integer,
  used_by       integer unique references users (id),
  used_at_ms    integer,
  check ((used_by is null) = (used_at_ms is null)),
  check (used_at_ms is null or revoked_at_ms is null)
) strict;

create table vouchers (
  id             integer primary key,
  batch          text    not null,
  hash           blob    not null unique check (length(hash) = 32),
  hint           text    not null,                                   -- the first characters, which is what people are shown
  amount_nanos   integer not null check (amount_nanos > 0 and amount_nanos <= 4611686018427387904),
  created_by     text    not null,
  created_at_ms  integer not null,
  expires_at_ms  integer,
  voided_at_ms   integer,
  redeemed_by    integer references users (id),                      -- promo → wallet, reference 'voucher:<id>'
  redeemed_at_ms integer,
  check ((redeemed_by is null) = (redeemed_at_ms is null)),
  check (redeemed_at_ms is null or voided_at_ms is null)
) strict;
create index vouchers_by_batch on vouchers (batch);
create index vouchers_by_user on vouchers (redeemed_by) where redeemed_by is not null;

-- What may happen once happens once, and what it was worth stays what it was; nothing of it is forgotten.
create trigger recovery_codes_once before update on recovery_codes
  when old.used_at_ms is not null or new.user_id <> old.user_id or new.hash <> old.hash
  begin select raise(abort, 'a recovery code is used once'); end;
create trigger sign_in_links_once before update on sign_in_links
  when old.ended_at_ms is not null or new.user_id <> old.user_id or new.hash <> old.hash or new.expires_at_ms <> old.expires_at_ms
  begin select raise(abort, 'a link is used once'); end;
create trigger sign_in_links_no_delete before delete on sign_in_links begin select raise(abort, 'links are kept'); end;
create trigger invites_once before update on invites
  when old.used_at_ms is not null or old.revoked_at_ms is not null or new.id <> old.id or new.hash <> old.hash
    or new.credit_nanos <> old.credit_nanos or new.plan <> old.plan or new.expires_at_ms <> old.expires_at_ms
  begin select raise(abort, 'an invite is used or revoked once, and stays what it was'); end;
create trigger invites_no_delete before delete on invites begin select raise(abort, 'invites are kept'); end;
create trigger vouchers_once before update on vouchers
  when old.redeemed_at_ms is not null or old.voided_at_ms is not null or new.id <> old.id or new.hash <> old.hash
    or new.amount_nanos <> old.amount_nanos or new.batch <> old.batch or new.expires_at_ms is not old.expires_at_ms
  begin select raise(abort, 'a voucher is redeemed or void once, and stays what it was'); end;
create trigger vouchers_no_delete before delete on vouchers begin select raise(abort, 'vouchers are kept'); end;

pragma user_version = 5;
commit;
