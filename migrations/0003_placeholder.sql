-- The place of another migration, so that the numbers have no gap.
begin immediate;
pragma user_version = 3;
commit;
