-- How much of the host a tenant may take. Null is the host's default.

alter table tenant
    add column concurrency_max integer check (concurrency_max > 0),
    add column uploads_max_per_hour integer check (uploads_max_per_hour >= 0);
grant update (concurrency_max, uploads_max_per_hour) on tenant to wattle_admin;

-- Hosts hear of every change now, quotas included.
drop trigger tenant_changed on tenant;
create trigger tenant_changed after update on tenant
    for each row when (old.* is distinct from new.*) execute function wattle_tenant_changed();

-- The uploads of a tenant in the hour of its last one.
create table upload_count (
    tenant uuid primary key references tenant,
    hour timestamptz not null,
    uploads integer not null check (uploads > 0)
);
alter table upload_count enable row level security, force row level security;
grant select, insert, update (hour, uploads) on upload_count to wattle_tenant;
grant select on upload_count to wattle_admin;
create policy upload_count_own on upload_count to wattle_tenant using (tenant = wattle_current_tenant());
create policy upload_count_admin on upload_count for select to wattle_admin using (true);

-- With the tenant's concurrency, so that a call need not ask for it.
drop function wattle_key_lookup(bytea);
create function wattle_key_lookup(key_hash bytea)
returns table (
    id uuid, role text, tenant uuid, tenant_status text, concurrency_max integer,
    expires_at timestamptz, revoked_at timestamptz
)
language sql stable security definer set search_path = pg_catalog, public, pg_temp as $$
    select k.id, k.role, k.tenant, t.status, t.concurrency_max, k.expires_at, k.revoked_at
    from api_key k left join tenant t on t.id = k.tenant
    where k.hash = key_hash
$$;
revoke execute on function wattle_key_lookup(bytea) from public;
grant execute on function wattle_key_lookup(bytea) to wattle_tenant;
