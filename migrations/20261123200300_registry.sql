-- What tenants upload and deploy. Deleting hides: the ledger and old releases keep their names.

create table component_revision (
    tenant uuid not null references tenant,
    component text not null,
    digest bytea not null check (octet_length(digest) = 32),
    bytes bigint not null check (bytes > 0),
    -- Orders the revisions of a component; the last one is the default of a new release.
    uploaded bigint not null generated always as identity,
    created_at timestamptz not null default now(),
    hidden_at timestamptz,
    primary key (tenant, component, digest)
);

create table graph_version (
    tenant uuid not null references tenant,
    graph text not null,
    digest bytea not null check (octet_length(digest) = 32),
    bytes bigint not null check (bytes > 0),
    encoding text not null,
    signature jsonb not null,
    uploaded bigint not null generated always as identity,
    created_at timestamptz not null default now(),
    hidden_at timestamptz,
    primary key (tenant, graph, digest)
);

create table deployment (
    tenant uuid not null references tenant,
    name text not null,
    -- The number of the release that calls go to.
    current integer,
    created_at timestamptz not null default now(),
    hidden_at timestamptz,
    primary key (tenant, name)
);

create table release (
    tenant uuid not null,
    deployment text not null,
    number integer not null check (number > 0),
    component text,
    revision bytea,
    settings jsonb not null,
    limits jsonb not null,
    signature jsonb not null,
    created_at timestamptz not null default now(),
    primary key (tenant, deployment, number),
    foreign key (tenant, deployment) references deployment,
    foreign key (tenant, component, revision) references component_revision,
    constraint release_component_has_revision check ((component is null) = (revision is null))
);
alter table deployment add constraint deployment_current_fkey
    foreign key (tenant, name, current) references release;

create table release_graph (
    tenant uuid not null,
    deployment text not null,
    number integer not null,
    -- The name under which the release's component finds the graph.
    alias text not null,
    graph text not null,
    digest bytea not null,
    primary key (tenant, deployment, number, alias),
    foreign key (tenant, deployment, number) references release,
    foreign key (tenant, graph, digest) references graph_version
);

do $$
declare
    name text;
begin
    foreach name in array array['component_revision', 'graph_version', 'deployment', 'release', 'release_graph'] loop
        execute format('alter table %I enable row level security, force row level security', name);
        execute format('create policy %I on %I to wattle_tenant using (tenant = wattle_current_tenant())',
            name || '_own', name);
        execute format('grant select, insert on %I to wattle_tenant', name);
    end loop;
    foreach name in array array['release', 'release_graph'] loop
        execute format('create trigger %I before update or delete on %I
            for each row execute function wattle_append_only()', name || '_append_only', name);
        execute format('create trigger %I before truncate on %I
            for each statement execute function wattle_append_only()', name || '_no_truncate', name);
    end loop;
end
$$;
grant update (hidden_at) on component_revision, graph_version to wattle_tenant;
grant update (current, hidden_at) on deployment to wattle_tenant;
