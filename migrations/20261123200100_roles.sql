-- Roles of the run time. The owner migrates and does nothing else; the host logs in as one
-- NOINHERIT role that is a member of these four, and every transaction takes exactly one of them.
--
-- Roles belong to the cluster, advisory locks to a database. Two databases of a cluster can thus
-- migrate at once, so a role that the other one made in the meantime is as good as ours.

revoke create on schema public from public;

do $$
declare
    role_name text;
begin
    perform pg_advisory_xact_lock(hashtextextended('wattle roles', 0));
    foreach role_name in array array['wattle_tenant', 'wattle_writer', 'wattle_billing', 'wattle_admin'] loop
        if not exists (select from pg_roles where rolname = role_name) then
            begin
                execute format('create role %I nologin', role_name);
            exception when duplicate_object or unique_violation then
                null;
            end;
        end if;
    end loop;
end
$$;

-- Makes `login` if it is absent, and a member of the four. Runs as its caller, the owner.
create function wattle_make_login(login text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    role_name text;
begin
    perform pg_advisory_xact_lock(hashtextextended('wattle roles', 0));
    if not exists (select from pg_roles where rolname = login) then
        begin
            execute format('create role %I login noinherit', login);
        exception when duplicate_object or unique_violation then
            null;
        end;
    end if;
    foreach role_name in array array['wattle_tenant', 'wattle_writer', 'wattle_billing', 'wattle_admin'] loop
        if not pg_has_role(login, role_name, 'member') then
            begin
                execute format('grant %I to %I', role_name, login);
            exception when unique_violation then
                null;
            end;
        end if;
    end loop;
end
$$;
revoke execute on function wattle_make_login(text) from public;

-- The tenant of the transaction. After `set local` has ended the setting is '', not null.
create function wattle_current_tenant() returns uuid
language sql stable parallel safe
return nullif(current_setting('wattle.tenant', true), '')::uuid;

-- Row triggers are cloned to partitions, statement triggers on a parent are not: hence FOR EACH ROW
-- for update and delete, and a TRUNCATE trigger on every table and partition.
create function wattle_append_only() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception '% is append-only: no %', tg_table_name, lower(tg_op) using errcode = 'restrict_violation';
end
$$;
revoke execute on function wattle_append_only() from public;
