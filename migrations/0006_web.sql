-- What the page of requests looks for and no index tells apart: those that cost nothing, and those whose figures are not plainly the
-- provider's. Both are few, so their indexes are small, and an ordinary request writes to neither.
begin immediate;

create index holds_void on holds (wallet_id) where state = 'void';
create index usage_unusual on usage (wallet_id) where source <> 'reported';
-- A session lies in a few hours of many.
create index usage_sessions_by_session on usage_sessions (wallet_id, session);
-- Who said what of a key's limits, which its user may not lift.
create index audit_log_of_keys on audit_log (subject) where action in ('keys.create', 'keys.update');

pragma user_version = 6;
commit;
