-- Tenants are closed for good, deployments are made anew, and what nothing needs any more can be collected.

alter table tenant add column closed_at timestamptz;

create function wattle_tenant_closed() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if old.status = 'closed' and new.status <> 'closed' then
        raise exception 'a closed tenant stays closed'
            using errcode = 'check_violation', constraint = 'tenant_closed_is_final';
    end if;
    if new.status = 'closed' then
        new.closed_at := coalesce(old.closed_at, now());
    end if;
    return new;
end
$$;
revoke execute on function wattle_tenant_closed() from public;
create trigger tenant_closed before update of status on tenant
    for each row execute function wattle_tenant_closed();

-- A deployment that was deleted and made anew has only the releases since then: the bytes of older ones may be
-- gone. Their numbers stay taken, because the ledger names them.
alter table deployment add column first_release integer not null default 1;
grant update (first_release) on deployment to wattle_tenant;

create index release_revision on release (tenant, component, revision);
create index release_graph_version on release_graph (tenant, graph, digest);

-- What each tenant has uploaded, and since when nothing needs it: null while it is visible or a release of a
-- deployment that is not deleted has it. A closed tenant needs nothing.
create view stored with (security_invoker = true) as
select upload.tenant, upload.kind, upload.digest, upload.bytes,
    case
        when tenant.closed_at is not null then tenant.closed_at
        when upload.hidden_at is null or used.live then null
        else greatest(upload.hidden_at, used.ended_at)
    end as free_since
from (
    select tenant, 'component' as kind, component as name, digest, bytes, hidden_at from component_revision
    union all
    select tenant, 'graph', graph, digest, bytes, hidden_at from graph_version
) upload
join tenant on tenant.id = upload.tenant
cross join lateral (
    select coalesce(bool_or(d.hidden_at is null and use.number >= d.first_release), false) as live,
        max(d.hidden_at) as ended_at
    from (
        select tenant, 'component' as kind, component as name, revision as digest, deployment, number from release
        union all
        select tenant, 'graph', graph, digest, deployment, number from release_graph
    ) use
    join deployment d on d.tenant = use.tenant and d.name = use.deployment
    where use.tenant = upload.tenant and use.kind = upload.kind and use.name = upload.name
        and use.digest = upload.digest
) used;
grant select on stored to wattle_tenant, wattle_admin;

-- The collector asks for every tenant; it sees what refers to bytes, and no settings or signatures.
grant select (tenant, component, digest, bytes, hidden_at) on component_revision to wattle_admin;
grant select (tenant, graph, digest, bytes, hidden_at) on graph_version to wattle_admin;
grant select (tenant, name, first_release, hidden_at) on deployment to wattle_admin;
grant select (tenant, deployment, number, component, revision) on release to wattle_admin;
grant select (tenant, deployment, number, graph, digest) on release_graph to wattle_admin;

do $$
declare
    name text;
begin
    foreach name in array array['component_revision', 'graph_version', 'deployment', 'release', 'release_graph'] loop
        execute format('create policy %I on %I for select to wattle_admin using (true)', name || '_admin', name);
    end loop;
end
$$;
