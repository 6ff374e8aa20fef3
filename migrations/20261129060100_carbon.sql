-- What energy is worth in carbon and water: factors and sites, which are learnt, and valuations, which name the
-- instant that they take their knowledge from. Append-only: what is learnt later is a new row, so that every
-- valuation can be made again.
--
-- As in the ledger, nothing here refers to tenancy.

create table factor (
    id bigint primary key generated always as identity,
    zone text not null check (zone ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$'),
    signal text not null check (signal in ('average', 'marginal')),
    method text not null check (method in ('location', 'market')),
    valid_from timestamptz not null,
    valid_to timestamptz not null,
    -- The database says it, so that nobody can say afterwards that he knew before.
    known_at timestamptz not null default clock_timestamp(),
    mg_per_kwh bigint not null check (mg_per_kwh between 0 and 10000000),
    source text not null check (octet_length(source) between 1 and 200),
    version text not null check (octet_length(version) between 1 and 200),
    is_estimated boolean not null,
    unique (zone, signal, method, valid_from, known_at),
    constraint factor_holds_for_a_time check (valid_to > valid_from),
    constraint factor_marginal_is_of_a_place check (signal = 'average' or method = 'location')
);
create index factor_known_at on factor (known_at);

-- Where a node stands, until the next row of it.
create table site (
    id bigint primary key generated always as identity,
    node uuid not null,
    valid_from timestamptz not null,
    known_at timestamptz not null default clock_timestamp(),
    zone text check (zone ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$'),
    -- Null where the zone's own name serves.
    marginal_zone text check (marginal_zone ~ '^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$'),
    pue_ppm integer not null check (pue_ppm >= 1000000),
    pue_is_estimated boolean not null,
    -- Null where it is not known, never 0 for that.
    wue_ul_per_kwh bigint check (wue_ul_per_kwh >= 0),
    ewif_ul_per_kwh bigint check (ewif_ul_per_kwh >= 0),
    ewif_is_estimated boolean not null,
    cfe_ppm integer not null check (cfe_ppm between 0 and 1000000),
    embodied_min_g bigint check (embodied_min_g >= 0),
    embodied_mid_g bigint,
    embodied_max_g bigint,
    life_s bigint check (life_s > 0),
    threads integer check (threads > 0),
    unique (node, valid_from, known_at),
    constraint site_hardware_is_whole
        check (num_nulls(embodied_min_g, embodied_mid_g, embodied_max_g, life_s, threads) in (0, 5)),
    constraint site_hardware_is_a_range
        check (embodied_min_g <= embodied_mid_g and embodied_mid_g <= embodied_max_g)
);
create index site_known_at on site (known_at);

-- What one day (UTC) of a node's use was worth to each tenant and deployment, as of an instant. All rows of one
-- (day, node, as_of) are one valuation: the newest as of an instant is the one to read.
create table valuation (
    day timestamptz not null check (day = date_trunc('day', day, 'UTC')),
    node uuid not null,
    as_of timestamptz not null,
    tenant uuid not null,
    deployment text,
    energy_uj bigint not null check (energy_uj >= 0),
    cpu_ns bigint not null check (cpu_ns >= 0),
    lines bigint not null check (lines >= 0),
    lines_unmetered bigint not null check (lines_unmetered between 0 and lines),
    -- Null where nothing is known; else of the energy that is covered.
    location_ug bigint check (location_ug >= 0),
    location_covered_uj bigint not null,
    location_estimated_uj bigint not null,
    market_ug bigint check (market_ug >= 0),
    market_covered_uj bigint not null,
    market_estimated_uj bigint not null,
    marginal_ug bigint check (marginal_ug >= 0),
    marginal_covered_uj bigint not null,
    marginal_estimated_uj bigint not null,
    water_ul bigint check (water_ul >= 0),
    water_covered_uj bigint not null,
    water_estimated_uj bigint not null,
    embodied_min_ug bigint check (embodied_min_ug >= 0),
    embodied_mid_ug bigint,
    embodied_max_ug bigint,
    embodied_ns bigint not null,
    -- Source and version of the factors of each figure.
    versions jsonb not null check (jsonb_typeof(versions) = 'object'),
    valued_at timestamptz not null default clock_timestamp(),
    constraint valuation_covers_what_there_is check (
        location_covered_uj between 0 and energy_uj and market_covered_uj between 0 and energy_uj
        and marginal_covered_uj between 0 and energy_uj and water_covered_uj between 0 and energy_uj
        and embodied_ns between 0 and cpu_ns),
    constraint valuation_estimates_what_it_covers check (
        location_estimated_uj between 0 and location_covered_uj
        and market_estimated_uj between 0 and market_covered_uj
        and marginal_estimated_uj between 0 and marginal_covered_uj
        and water_estimated_uj between 0 and water_covered_uj)
);
create unique index valuation_key on valuation (day, node, as_of, tenant, coalesce(deployment, ''));
create index valuation_tenant_day on valuation (tenant, day);

do $$
declare
    name text;
begin
    foreach name in array array['factor', 'site', 'valuation'] loop
        execute format('create trigger %I before update or delete on %I
            for each row execute function wattle_append_only()', name || '_append_only', name);
        execute format('create trigger %I before truncate on %I
            for each statement execute function wattle_append_only()', name || '_no_truncate', name);
        execute format('alter table %I enable row level security, force row level security', name);
        execute format('create policy %I on %I for select to wattle_billing using (true)', name || '_billing', name);
        execute format('create policy %I on %I to wattle_writer using (true)', name || '_writer', name);
    end loop;
    -- Where a node stands and what its grid emits is no tenant's secret: it explains their own figures.
    foreach name in array array['factor', 'site'] loop
        execute format('create policy %I on %I for select to wattle_tenant using (true)', name || '_tenant', name);
    end loop;
end
$$;
create policy factor_admin on factor to wattle_admin using (true);
create policy valuation_own on valuation for select to wattle_tenant using (tenant = wattle_current_tenant());

grant select on factor, site, valuation to wattle_tenant, wattle_billing;
-- Those who add see what is new.
grant select on factor, site to wattle_writer;
grant select on factor to wattle_admin;
-- Not `known_at`: that is the database's to say.
grant insert (zone, signal, method, valid_from, valid_to, mg_per_kwh, source, version, is_estimated)
    on factor to wattle_writer, wattle_admin;
grant insert (node, valid_from, zone, marginal_zone, pue_ppm, pue_is_estimated, wue_ul_per_kwh, ewif_ul_per_kwh,
    ewif_is_estimated, cfe_ppm, embodied_min_g, embodied_mid_g, embodied_max_g, life_s, threads)
    on site to wattle_writer;
grant insert on valuation to wattle_writer;

-- Energy that allocations move to tenants is valued with what they used: it is found by time.
create index transfer_allocation_at on transfer (at) where kind = 'allocation';
