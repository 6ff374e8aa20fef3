-- A key's end can be brought forward, which is what rotating it does to the old secret; and a tenant keeps its
-- own keys. Hashes stay unread by all but the lookup.

grant update (expires_at) on api_key to wattle_admin;
grant select (id, tenant, role, name, created_at, expires_at, revoked_at), insert, update (revoked_at, expires_at)
    on api_key to wattle_tenant;
create policy api_key_own on api_key to wattle_tenant using (tenant = wattle_current_tenant());

create or replace function wattle_key_changed() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if old.revoked_at is not null and new.revoked_at is distinct from old.revoked_at then
        raise exception 'the revocation of a key is final' using errcode = 'restrict_violation';
    end if;
    if old.expires_at < new.expires_at or (new.expires_at is null and old.expires_at is not null) then
        raise exception 'the end of a key is only brought forward' using errcode = 'restrict_violation';
    end if;
    perform pg_notify('wattle_key', 'key:' || new.id);
    return new;
end
$$;
