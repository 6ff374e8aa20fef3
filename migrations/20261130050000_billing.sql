-- Billing: price plans, months that close, corrections, and statements. Append-only like the ledger, whose rows they
-- rest on: a change of prices is a further plan, a repair is a posting of its own, and a statement stays as it is.

-- Prices from an instant on, in a currency's major units. A plan holds until a later one of the same tenant.
create table price_plan (
    id bigint primary key generated always as identity,
    -- Null: for every tenant without one of its own.
    tenant uuid references tenant,
    valid_from timestamptz not null,
    currency text not null check (currency ~ '^[A-Z]{3}$'),
    per_kwh numeric(19, 12) not null check (per_kwh between 0 and 1000000),
    per_gigafuel numeric(19, 12) not null check (per_gigafuel between 0 and 1000000),
    per_gb_second numeric(19, 12) not null check (per_gb_second between 0 and 1000000),
    per_call numeric(19, 12) not null check (per_call between 0 and 1000000),
    per_month numeric(19, 12) not null check (per_month between 0 and 1000000),
    created_at timestamptz not null default now()
);

-- A node that will not drain: it holds up no month, until it posts again.
create table node_lost (
    id bigint primary key generated always as identity,
    node uuid not null references node,
    declared_at timestamptz not null default clock_timestamp(),
    reason text not null check (octet_length(reason) between 1 and 2000)
);

-- Where the ledger was cut for a month: its statements have postings up to `through`, and nothing that comes later.
create table period_cut (
    month date primary key check (extract(day from month) = 1),
    -- The last posting's id; 0 where there was none.
    through bigint not null,
    -- What carbon is valued by.
    as_of timestamptz not null,
    -- SHA-256 over the hashes of the postings since the cut before, in the order of the ledger.
    postings_digest bytea not null check (octet_length(postings_digest) = 32),
    cut_at timestamptz not null default clock_timestamp()
);

-- A month whose statements are complete. It stays closed.
create table period_close (
    month date primary key references period_cut,
    closed_at timestamptz not null default clock_timestamp(),
    statements bigint not null check (statements >= 0)
);

-- What a posting of kind `correction` does, and why. Its digest is the posting's input digest.
create table correction (
    id uuid primary key,
    requested_at timestamptz not null,
    -- Which node seals it.
    node uuid not null,
    tenant uuid not null,
    deployment text,
    unit smallint not null references unit,
    amount bigint not null check (amount <> 0),
    cites bytea not null references posting (hash),
    reason text not null check (octet_length(reason) between 1 and 2000),
    key uuid not null,
    digest bytea not null unique check (octet_length(digest) = 32)
);
create index correction_cites on correction (cites);
create index correction_node on correction (node);
create index posting_correction on posting (input_digest) where kind = 'correction';

-- A tenant's statement for a month: the bytes that are served, and their digest.
create table statement (
    month date not null references period_cut,
    tenant uuid not null,
    body text not null,
    digest bytea not null check (digest = sha256(convert_to(body, 'UTF8'))),
    primary key (month, tenant)
);

-- The lines of statements, each with a place in the order in which they were made.
create table charge (
    id bigint not null unique generated always as identity,
    month date not null,
    tenant uuid not null,
    ordinal integer not null check (ordinal >= 0),
    class text not null check (class in ('usage', 'correction')),
    -- In which month it was used.
    of_month date not null check (of_month <= month),
    deployment text,
    item text not null check (item in ('energy', 'fuel', 'memory', 'call', 'flat', 'carbon')),
    plan bigint references price_plan,
    began_at timestamptz not null,
    ended_at timestamptz not null check (ended_at > began_at),
    -- As the item counts: µJ, units of fuel, byte·ns, calls, µs of the month, µg.
    quantity numeric(39, 0) not null,
    -- For a priced unit, in the currency's major unit.
    rate numeric(19, 12) not null,
    currency text not null,
    -- In the currency's minor units.
    amount bigint not null,
    provenance text check (provenance in ('measured', 'modelled', 'estimated')),
    location_ug bigint,
    market_ug bigint,
    embodied_ug bigint,
    primary key (month, tenant, ordinal),
    foreign key (month, tenant) references statement,
    constraint charge_has_a_price check (plan is not null or (rate = 0 and amount = 0)),
    constraint charge_of_carbon check (item = 'carbon' or num_nonnulls(location_ug, market_ug, embodied_ug) = 0)
);
create index charge_carbon on charge (of_month, tenant) where item = 'carbon';
create index charge_tenant on charge (tenant, id);

-- Cuts the ledger for a month, unless it is cut already. Waits for what is being posted, and lets nothing be posted
-- until the transaction ends: so a posting that comes later has a larger id.
create function wattle_cut_period(of_month date, known_at timestamptz) returns void
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
    lock table posting in share row exclusive mode;
    insert into period_cut (month, through, as_of, postings_digest)
    select of_month, coalesce(max(p.id), 0), known_at,
        sha256(coalesce(string_agg(p.hash, ''::bytea order by p.id)
            filter (where p.id > (select coalesce(max(through), 0) from period_cut)), ''::bytea))
    from posting p
    on conflict (month) do nothing;
end
$$;
revoke execute on function wattle_cut_period(date, timestamptz) from public;
grant execute on function wattle_cut_period(date, timestamptz) to wattle_admin;

-- How much of what a posting moved to a tenant is not taken back yet; null for a posting that is not there. Nobody
-- else asks until the transaction ends.
create function wattle_correctable(cited bytea, of_tenant uuid, of_deployment text, of_unit text) returns numeric
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    moved numeric;
begin
    perform pg_advisory_xact_lock(hashtextextended('wattle corrections', 0));
    select coalesce((
            select sum(case a.code when 'tenant:' || of_tenant then t.amount else -t.amount end)
            from transfer t
            join account a on a.id = t.debit
            join unit on unit.id = t.unit and unit.code = of_unit
            where t.at = p.ended_at and t.node = p.node and t.epoch = p.epoch and t.seq = p.seq
                and t.tenant = of_tenant and t.deployment is not distinct from of_deployment
        ), 0) + coalesce((
            select sum(c.amount)
            from correction c
            join unit on unit.id = c.unit and unit.code = of_unit
            where c.cites = cited and c.tenant = of_tenant and c.deployment is not distinct from of_deployment
        ), 0)
    into moved
    from posting p
    where p.hash = cited;
    return moved;
end
$$;
revoke execute on function wattle_correctable(bytea, uuid, text, text) from public;
grant execute on function wattle_correctable(bytea, uuid, text, text) to wattle_admin;

do $$
declare
    name text;
begin
    foreach name in array array['price_plan', 'node_lost', 'period_cut', 'period_close', 'correction', 'statement',
        'charge']
    loop
        execute format('create trigger %I before update or delete on %I
            for each row execute function wattle_append_only()', name || '_append_only', name);
        execute format('create trigger %I before truncate on %I
            for each statement execute function wattle_append_only()', name || '_no_truncate', name);
        execute format('grant select on %I to wattle_billing, wattle_admin', name);
    end loop;
    foreach name in array array['price_plan', 'correction', 'statement', 'charge'] loop
        execute format('alter table %I enable row level security, force row level security', name);
        execute format('create policy %I on %I for select to wattle_billing using (true)', name || '_billing', name);
        execute format('create policy %I on %I to wattle_admin using (true)', name || '_admin', name);
        execute format('grant insert on %I to wattle_admin', name);
        execute format('grant select on %I to wattle_tenant', name);
    end loop;
    foreach name in array array['correction', 'statement', 'charge'] loop
        execute format('create policy %I on %I for select to wattle_tenant using (tenant = wattle_current_tenant())',
            name || '_own', name);
    end loop;
end
$$;
create policy price_plan_own on price_plan for select to wattle_tenant
    using (tenant is null or tenant = wattle_current_tenant());
-- Which months are closed is no tenant's secret.
grant select on period_cut, period_close to wattle_tenant;
grant insert on node_lost, period_close to wattle_admin;
-- A correction names its unit.
grant select on unit to wattle_admin;
-- The poster says in each transfer of a correction what that cites.
grant select (digest, cites) on correction to wattle_writer;
create policy correction_writer on correction for select to wattle_writer using (true);
-- Row-level security is forced on the functions' owner too.
create policy transfer_lookup on transfer for select to current_user using (true);
create policy correction_lookup on correction for select to current_user using (true);
