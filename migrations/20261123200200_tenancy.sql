-- Nodes, tenants and bearer keys.

create table node (
    id uuid primary key,
    name text not null unique,
    created_at timestamptz not null default now()
);
grant select, insert on node to wattle_admin;
grant select on node to wattle_billing;

create table tenant (
    id uuid primary key,
    name text not null unique,
    status text not null default 'active' check (status in ('active', 'suspended', 'closed')),
    -- Bytes of components and graphs that it may store; null for the host's default.
    storage_max_bytes bigint check (storage_max_bytes >= 0),
    created_at timestamptz not null default now()
);
alter table tenant enable row level security, force row level security;
grant select, insert, update (status, storage_max_bytes) on tenant to wattle_admin;
grant select on tenant to wattle_billing, wattle_tenant;
create policy tenant_admin on tenant to wattle_admin using (true);
create policy tenant_billing on tenant for select to wattle_billing using (true);
create policy tenant_own on tenant for select to wattle_tenant using (id = wattle_current_tenant());

create table api_key (
    id uuid primary key,
    tenant uuid references tenant,
    role text not null
        check (role in ('admin', 'billing', 'auditor', 'tenant:manage', 'tenant:invoke', 'tenant:read')),
    name text not null,
    hash bytea not null unique check (octet_length(hash) = 32),
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    constraint api_key_tenant_fits_role check ((tenant is not null) = starts_with(role, 'tenant:'))
);
alter table api_key enable row level security, force row level security;
grant select, insert, update (revoked_at) on api_key to wattle_admin;
create policy api_key_admin on api_key to wattle_admin using (true);

-- A key is looked up before its tenant is known, which no run-time role may do itself. Row-level
-- security is forced on the owner too, so the function's owner gets a policy for this one reading.
create policy tenant_lookup on tenant for select to current_user using (true);
create policy api_key_lookup on api_key for select to current_user using (true);

create function wattle_key_lookup(key_hash bytea)
returns table (id uuid, role text, tenant uuid, tenant_status text, expires_at timestamptz, revoked_at timestamptz)
language sql stable security definer set search_path = pg_catalog, public, pg_temp as $$
    select k.id, k.role, k.tenant, t.status, k.expires_at, k.revoked_at
    from api_key k left join tenant t on t.id = k.tenant
    where k.hash = key_hash
$$;
revoke execute on function wattle_key_lookup(bytea) from public;
grant execute on function wattle_key_lookup(bytea) to wattle_tenant;

-- A revocation once seen is final, and every host hears of it.
create function wattle_key_changed() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if old.revoked_at is not null and new.revoked_at is distinct from old.revoked_at then
        raise exception 'the revocation of a key is final' using errcode = 'restrict_violation';
    end if;
    perform pg_notify('wattle_key', 'key:' || new.id);
    return new;
end
$$;
revoke execute on function wattle_key_changed() from public;
create trigger api_key_changed before update on api_key for each row execute function wattle_key_changed();

create function wattle_tenant_changed() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_notify('wattle_key', 'tenant:' || new.id);
    return null;
end
$$;
revoke execute on function wattle_tenant_changed() from public;
create trigger tenant_changed after update of status on tenant
    for each row when (old.status is distinct from new.status) execute function wattle_tenant_changed();
