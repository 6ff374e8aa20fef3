-- The ledger: postings, and under each its counters, transfers and receipt lines. Append-only.
--
-- Nothing here refers to tenancy or registry: the ledger keeps ids and names for ever, and a posting
-- must go in even after an older copy of those tables was restored.

create table unit (
    id smallint primary key,
    code text not null unique
);
insert into unit (id, code) values (1, 'uj'), (2, 'fuel');

create table account (
    id bigint primary key generated always as identity,
    code text not null unique
        check (code ~ '^(meter:.+|fuel:.+|tenant:.+|platform|idle|system|foreign|unattributed)$')
);

create table posting (
    -- The order of insertion, which is the order of the chain: one task per node drains in order.
    id bigint not null unique generated always as identity,
    node uuid not null,
    epoch uuid not null,
    seq bigint not null check (seq >= 0),
    kind text not null check (kind in ('window', 'allocation', 'correction')),
    began_at timestamptz not null,
    ended_at timestamptz not null,
    fuel_schedule bigint not null,
    input_digest bytea not null check (octet_length(input_digest) = 32),
    merkle_root bytea not null check (octet_length(merkle_root) = 32),
    prev_hash bytea not null check (octet_length(prev_hash) = 32),
    hash bytea not null unique check (octet_length(hash) = 32),
    posted_at timestamptz not null default now(),
    primary key (node, epoch, seq),
    -- What the partition key of transfers and receipt lines is checked against.
    unique (node, epoch, seq, ended_at),
    -- A node's postings are one chain: no two follow the same one, and only one is the first.
    constraint posting_chain unique (node, prev_hash),
    constraint posting_ends_after_it_began check (ended_at >= began_at)
);
create index posting_node_id on posting (node, id);

create table posting_root (
    node uuid not null,
    epoch uuid not null,
    seq bigint not null,
    ordinal integer not null,
    root text not null,
    kind text not null,
    provenance text not null check (provenance in ('measured', 'modelled', 'estimated')),
    uncertainty_ppm bigint not null,
    model_version bigint not null,
    boot_id uuid not null,
    start_uj bigint not null check (start_uj >= 0),
    end_uj bigint not null,
    primary key (node, epoch, seq, ordinal),
    -- One row per root: a root that booted anew goes on in the next posting.
    unique (node, epoch, seq, root),
    foreign key (node, epoch, seq) references posting,
    constraint posting_root_counts_up check (end_uj >= start_uj)
);

create table transfer (
    at timestamptz not null,
    node uuid not null,
    epoch uuid not null,
    seq bigint not null,
    ordinal integer not null,
    credit bigint not null references account,
    debit bigint not null references account,
    root text,
    unit smallint not null references unit,
    kind text not null check (kind in
        ('dynamic', 'idle', 'system', 'foreign', 'unattributed', 'allocation', 'correction')),
    tenant uuid,
    deployment text,
    release integer,
    -- Always null so far: energy is split by release, not by graph.
    graph bytea check (octet_length(graph) = 32),
    amount bigint not null check (amount > 0),
    -- The hash of the posting that a correction repairs; null until there are corrections.
    cites bytea references posting (hash),
    primary key (at, node, epoch, seq, ordinal),
    foreign key (node, epoch, seq, at) references posting (node, epoch, seq, ended_at),
    constraint transfer_moves check (credit <> debit)
) partition by range (at);
create index transfer_tenant_at on transfer (tenant, at) where tenant is not null;

create table receipt_line (
    at timestamptz not null,
    node uuid not null,
    epoch uuid not null,
    seq bigint not null,
    tenant uuid not null,
    invocation uuid not null,
    ordinal integer not null,
    kind text not null,
    deployment text,
    release integer,
    started_at timestamptz not null,
    -- Set on the last line only; then the receipt has `ordinal + 1` lines.
    outcome text,
    last boolean not null generated always as (outcome is not null) stored,
    fuel_schedule bigint not null,
    fuel bigint not null check (fuel >= 0),
    cpu_ns bigint not null check (cpu_ns >= 0),
    model_ns bigint not null check (model_ns >= 0),
    bytes_in bigint not null check (bytes_in >= 0),
    bytes_out bigint not null check (bytes_out >= 0),
    peak_memory_bytes bigint not null check (peak_memory_bytes >= 0),
    -- Null where no reading covers the use.
    energy_uj bigint check (energy_uj >= 0),
    work jsonb not null,
    primary key (tenant, invocation, ordinal, at),
    -- One line per invocation and window.
    unique (at, node, epoch, seq, invocation),
    foreign key (node, epoch, seq, at) references posting (node, epoch, seq, ended_at)
) partition by range (at);

-- Months and not days: transfers are kept for ever, a receipt is found by an id that does not name its
-- day, and a month is still small enough to be archived and dropped as one.
create table transfer_default partition of transfer default;
create table receipt_line_default partition of receipt_line default;

do $$
declare
    name text;
begin
    foreach name in array array['unit', 'account', 'posting', 'posting_root', 'transfer', 'receipt_line'] loop
        execute format('create trigger %I before update or delete on %I
            for each row execute function wattle_append_only()', name || '_append_only', name);
    end loop;
    foreach name in array array['unit', 'account', 'posting', 'posting_root', 'transfer', 'transfer_default',
        'receipt_line', 'receipt_line_default'] loop
        execute format('create trigger %I before truncate on %I
            for each statement execute function wattle_append_only()', name || '_no_truncate', name);
    end loop;
end
$$;

-- Grants are on parents only, so that no partition is a way around row-level security.
grant select on unit, account, posting, posting_root, transfer, receipt_line to wattle_billing;
grant select on unit, posting to wattle_writer;
grant select, insert on account to wattle_writer;
grant insert on posting, posting_root, transfer, receipt_line to wattle_writer;
-- A posting holds times and digests, nothing of another tenant; its counters stay with billing,
-- because power seen at a window's pace is a side channel.
grant select on unit, posting, transfer, receipt_line to wattle_tenant;

alter table transfer enable row level security, force row level security;
create policy transfer_own on transfer for select to wattle_tenant using (tenant = wattle_current_tenant());
create policy transfer_billing on transfer for select to wattle_billing using (true);
create policy transfer_writer on transfer for insert to wattle_writer with check (true);

alter table receipt_line enable row level security, force row level security;
create policy receipt_line_own on receipt_line for select to wattle_tenant
    using (tenant = wattle_current_tenant());
create policy receipt_line_billing on receipt_line for select to wattle_billing using (true);
create policy receipt_line_writer on receipt_line for insert to wattle_writer with check (true);

-- Makes the monthly partitions (UTC) from this month through the month of `through`; returns how many.
-- A month that already has rows in the default partition stays there, and is said.
create function wattle_make_partitions(through timestamptz) returns integer
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
    first timestamp := date_trunc('month', now() at time zone 'UTC');
    final timestamp := date_trunc('month', through at time zone 'UTC');
    month timestamp;
    parent text;
    leaf text;
    made integer := 0;
begin
    if final > first + interval '10 years' then
        raise exception 'partitions are made at most ten years ahead' using errcode = 'invalid_parameter_value';
    end if;
    perform pg_advisory_xact_lock(hashtextextended('wattle partitions', 0));
    for month in select * from generate_series(first, final, interval '1 month') loop
        foreach parent in array array['transfer', 'receipt_line'] loop
            leaf := parent || to_char(month, '_YYYY_MM');
            continue when to_regclass(format('public.%I', leaf)) is not null;
            begin
                execute format('create table public.%I partition of public.%I for values from (%L) to (%L)',
                    leaf, parent, month at time zone 'UTC', (month + interval '1 month') at time zone 'UTC');
                execute format('create trigger %I before truncate on public.%I
                    for each statement execute function public.wattle_append_only()', leaf || '_no_truncate', leaf);
                made := made + 1;
            exception when check_violation then
                raise warning '% keeps rows of % in its default partition', parent, to_char(month, 'YYYY-MM');
            end;
        end loop;
    end loop;
    return made;
end
$$;
revoke execute on function wattle_make_partitions(timestamptz) from public;
grant execute on function wattle_make_partitions(timestamptz) to wattle_writer;

-- Rows in default partitions: more than 0 means that partitions were not made ahead.
create function wattle_default_rows() returns bigint
language sql stable security definer set search_path = pg_catalog, public, pg_temp as $$
    select (select count(*) from public.transfer_default) + (select count(*) from public.receipt_line_default)
$$;
revoke execute on function wattle_default_rows() from public;
grant execute on function wattle_default_rows() to wattle_writer, wattle_billing;
