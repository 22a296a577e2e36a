-- Roles. A service logs in as whatever DATABASE_URL says and acts as one of these, so that the login needs no more
-- than membership. Roles belong to the whole server: another database of it may have made them already, even at this
-- very moment.
do $$
declare
  wanted text;
begin
  foreach wanted in array array['tallygate_owner', 'tallygate_worker', 'tallygate_control', 'tallygate_reader'] loop
    begin
      if not exists (select from pg_roles where rolname = wanted) then
        execute format('create role %I nologin', wanted);
      end if;
    exception when duplicate_object or unique_violation then
      null;
    end;
    if not pg_has_role(current_user, wanted, 'member') then
      execute format('grant %I to %I', wanted, current_user);
    end if;
  end loop;
end
$$;

grant usage, create on schema public to tallygate_owner;
grant usage on schema public to tallygate_worker, tallygate_control, tallygate_reader;
alter table schema_migration owner to tallygate_owner;
grant select on schema_migration to tallygate_worker, tallygate_control, tallygate_reader;
