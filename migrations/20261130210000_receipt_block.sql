-- Receipt lines by the block: the lines of a posting and tenant, up to a thousand, are one row, column by column. A row
-- for each line took more than half of the time of posting and 875 bytes: 21 columns, most of them as in the row before,
-- and two entries in indexes. `receipt_line` is the same as ever to who reads it.
--
-- Chunked arrays behind a view of rows are how Timescale compresses what is not written any more; here nothing is ever
-- written twice, so that it is done at once.

-- A block on its way in and out: its tenant, and the columns that differ from line to line.
create type line_block as (
    tenant uuid,
    invocation uuid[],
    ordinal integer[],
    kind text[],
    deployment text[],
    release integer[],
    started_at timestamptz[],
    outcome text[],
    fuel bigint[],
    cpu_ns bigint[],
    model_ns bigint[],
    bytes_in bigint[],
    bytes_out bigint[],
    peak_memory_bytes bigint[],
    energy_uj bigint[],
    work text[]
);

create table receipt_block (
    at timestamptz not null,
    node uuid not null,
    epoch uuid not null,
    seq bigint not null,
    -- Counts the blocks of a posting from 0.
    block integer not null check (block >= 0),
    tenant uuid not null,
    -- Its calls are in their order and of one slot, the 65.536 s in which their ids were made (the first four bytes of
    -- a UUID of version 7): a call is looked for in the blocks that end between it and the end of its slot.
    first_invocation uuid not null generated always as (invocation[1]) stored,
    last_invocation uuid not null generated always as (invocation[cardinality(invocation)]) stored,
    lines integer not null generated always as (cardinality(invocation)) stored,
    fuel_schedule bigint not null,
    invocation uuid[] not null,
    ordinal integer[] not null,
    kind text[] not null,
    deployment text[] not null,
    release integer[] not null,
    started_at timestamptz[] not null,
    -- Set on a call's last line only; then the receipt has `ordinal + 1` lines.
    outcome text[] not null,
    fuel bigint[] not null,
    cpu_ns bigint[] not null,
    model_ns bigint[] not null,
    bytes_in bigint[] not null,
    bytes_out bigint[] not null,
    peak_memory_bytes bigint[] not null,
    -- Null where no reading covers the use.
    energy_uj bigint[] not null,
    -- JSON, and not looked into until it is read.
    work text[] not null,
    primary key (at, node, epoch, seq, block),
    -- A key, and not the trigger that transfers have: blocks are far fewer than lines.
    foreign key (node, epoch, seq, at) references posting (node, epoch, seq, ended_at),
    -- One dimension that counts from 1, as the calls' does: they have a first and a last. What is empty has none.
    constraint receipt_block_is_a_table check (
        (array_dims(ordinal), array_dims(kind), array_dims(deployment), array_dims(release), array_dims(started_at),
            array_dims(outcome), array_dims(fuel), array_dims(cpu_ns), array_dims(model_ns), array_dims(bytes_in),
            array_dims(bytes_out), array_dims(peak_memory_bytes), array_dims(energy_uj), array_dims(work))
        is not distinct from
        (array_dims(invocation), array_dims(invocation), array_dims(invocation), array_dims(invocation),
            array_dims(invocation), array_dims(invocation), array_dims(invocation), array_dims(invocation),
            array_dims(invocation), array_dims(invocation), array_dims(invocation), array_dims(invocation),
            array_dims(invocation), array_dims(invocation))
    ),
    constraint receipt_block_is_full check (
        array_position(invocation, null) is null and array_position(ordinal, null) is null
        and array_position(kind, null) is null and array_position(started_at, null) is null
        and array_position(work, null) is null
    ),
    constraint receipt_block_is_of_a_slot check (
        substr(uuid_send(invocation[cardinality(invocation)]), 1, 4) = substr(uuid_send(invocation[1]), 1, 4)
    ),
    constraint receipt_block_counts_up check (
        ((0 <= all (fuel)) and (0 <= all (cpu_ns)) and (0 <= all (model_ns)) and (0 <= all (bytes_in))
            and (0 <= all (bytes_out)) and (0 <= all (peak_memory_bytes))) is true
        and (0 <= all (energy_uj)) is not false
    )
) partition by range (at);
create index receipt_block_call on receipt_block (tenant, last_invocation, first_invocation);

-- LZ4 takes a fraction of the time of Postgres's own compression. It is there where Postgres was built with it, and
-- partitions have it from their table.
do $$
declare
    name text;
begin
    foreach name in array array['invocation', 'ordinal', 'kind', 'deployment', 'release', 'started_at', 'outcome',
        'fuel', 'cpu_ns', 'model_ns', 'bytes_in', 'bytes_out', 'peak_memory_bytes', 'energy_uj', 'work'] loop
        execute format('alter table receipt_block alter %I set compression lz4', name);
    end loop;
exception when feature_not_supported then
    null;
end
$$;
create table receipt_block_default partition of receipt_block default;

create trigger receipt_block_append_only before update or delete on receipt_block
    for each row execute function wattle_append_only();
create trigger receipt_block_no_truncate before truncate on receipt_block
    for each statement execute function wattle_append_only();
create trigger receipt_block_default_no_truncate before truncate on receipt_block_default
    for each statement execute function wattle_append_only();

-- What the ledger has already, month by month as it is. Row-level security is forced on the owner too, who has no
-- policy for lines.
do $$
declare
    month record;
begin
    for month in
        select replace(c.relname, 'receipt_line', 'receipt_block') as leaf, pg_get_expr(c.relpartbound, c.oid) as bounds
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'public.receipt_line'::regclass and c.relname <> 'receipt_line_default'
    loop
        execute format('create table public.%I partition of public.receipt_block %s', month.leaf, month.bounds);
        execute format('create trigger %I before truncate on public.%I
            for each statement execute function public.wattle_append_only()', month.leaf || '_no_truncate', month.leaf);
    end loop;
end
$$;
alter table receipt_line no force row level security;
insert into receipt_block (at, node, epoch, seq, block, tenant, fuel_schedule,
    invocation, ordinal, kind, deployment, release, started_at, outcome, fuel, cpu_ns, model_ns, bytes_in,
    bytes_out, peak_memory_bytes, energy_uj, work)
select at, node, epoch, seq,
    row_number() over (partition by at, node, epoch, seq order by tenant, slot, part) - 1, tenant, fuel_schedule,
    invocation, ordinal, kind, deployment, release, started_at, outcome, fuel, cpu_ns, model_ns, bytes_in,
    bytes_out, peak_memory_bytes, energy_uj, work
from (
    select at, node, epoch, seq, tenant, slot, part, fuel_schedule,
        array_agg(invocation order by invocation), array_agg(ordinal order by invocation),
        array_agg(kind order by invocation), array_agg(deployment order by invocation),
        array_agg(release order by invocation), array_agg(started_at order by invocation),
        array_agg(outcome order by invocation), array_agg(fuel order by invocation),
        array_agg(cpu_ns order by invocation), array_agg(model_ns order by invocation),
        array_agg(bytes_in order by invocation), array_agg(bytes_out order by invocation),
        array_agg(peak_memory_bytes order by invocation), array_agg(energy_uj order by invocation),
        array_agg(work::text order by invocation)
    from (
        select l.*, substr(uuid_send(invocation), 1, 4) as slot,
            (row_number() over (partition by at, node, epoch, seq, tenant, substr(uuid_send(invocation), 1, 4)
                order by invocation) - 1) / 1000 as part
        from receipt_line l
    ) l
    group by at, node, epoch, seq, tenant, slot, part, fuel_schedule
) b (at, node, epoch, seq, tenant, slot, part, fuel_schedule, invocation, ordinal, kind, deployment, release,
        started_at, outcome, fuel, cpu_ns, model_ns, bytes_in, bytes_out, peak_memory_bytes, energy_uj, work);
drop table receipt_line;

-- Lines, one by one: what they say is checked and charged by this view.
create view receipt_line with (security_invoker = true) as
select b.at, b.node, b.epoch, b.seq, b.tenant, l.invocation, l.ordinal, l.kind, l.deployment, l.release, l.started_at,
    l.outcome, l.outcome is not null as last, b.fuel_schedule, l.fuel, l.cpu_ns, l.model_ns, l.bytes_in, l.bytes_out,
    l.peak_memory_bytes, l.energy_uj, l.work::jsonb as work
from receipt_block b
cross join lateral unnest(b.invocation, b.ordinal, b.kind, b.deployment, b.release, b.started_at, b.outcome,
    b.fuel, b.cpu_ns, b.model_ns, b.bytes_in, b.bytes_out, b.peak_memory_bytes, b.energy_uj, b.work)
    as l (invocation, ordinal, kind, deployment, release, started_at, outcome, fuel, cpu_ns, model_ns, bytes_in,
        bytes_out, peak_memory_bytes, energy_uj, work);

-- Grants are on the parent only, so that no partition is a way around row-level security.
grant select on receipt_block, receipt_line to wattle_billing, wattle_tenant;
grant insert on receipt_block to wattle_writer;
alter table receipt_block enable row level security, force row level security;
create policy receipt_block_own on receipt_block for select to wattle_tenant
    using (tenant = wattle_current_tenant());
create policy receipt_block_billing on receipt_block for select to wattle_billing using (true);
create policy receipt_block_writer on receipt_block for insert to wattle_writer with check (true);

-- Makes the monthly partitions (UTC) from this month through the month of `through`; returns how many.
-- A month that already has rows in the default partition stays there, and is said.
create or replace function wattle_make_partitions(through timestamptz) returns integer
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
        foreach parent in array array['transfer', 'receipt_block'] loop
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

-- Transfers and receipt lines in default partitions: more than 0 means that partitions were not made ahead.
create or replace function wattle_default_rows() returns bigint
language sql stable security definer set search_path = pg_catalog, public, pg_temp as $$
    select (select count(*) from public.transfer_default)
        + (select coalesce(sum(lines), 0) from public.receipt_block_default)
$$;

-- The partitions of receipt lines with rows, all of which are older, the oldest first.
create or replace function wattle_archive_due(older_than timestamptz)
returns table (leaf text, first_at timestamptz, last_at timestamptz)
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
    for leaf in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'public.receipt_block'::regclass
        order by c.relname
    loop
        execute format('select min(at), max(at) from public.%I', leaf) into first_at, last_at;
        if last_at < older_than then
            return next;
        end if;
    end loop;
end
$$;

-- Drops a partition of receipt lines, all of which are older and in archives as they are, and puts an empty one in its
-- place, for what comes late. Returns how many lines went. Refuses anything else, by the name of a constraint.
--
-- Nothing is posted until the transaction ends, so end it at once; who reads receipts waits for the last part of it.
create or replace function wattle_archive_drop(of_leaf text, older_than timestamptz) returns bigint
language plpgsql security definer set search_path = pg_catalog, public, pg_temp set lock_timeout = '5s' as $$
declare
    bounds text;
    last_at timestamptz;
    dropped bigint;
    differing bigint;
    archived_lines bigint;
begin
    if older_than is null or older_than > now() then
        raise exception 'what is to come cannot be archived'
            using errcode = 'check_violation', constraint = 'archive_is_of_the_past';
    end if;
    perform pg_advisory_xact_lock(hashtextextended('wattle partitions', 0));
    select pg_get_expr(c.relpartbound, c.oid) into bounds
    from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'public.receipt_block'::regclass and c.relname = of_leaf;
    if bounds is null then
        raise exception '% is no partition of receipt lines', of_leaf
            using errcode = 'check_violation', constraint = 'archive_is_of_receipt_lines';
    end if;
    -- In the order in which whoever posts takes them.
    lock table posting in share row exclusive mode;
    execute format('lock table public.%I in share row exclusive mode', of_leaf);
    execute format('select coalesce(sum(lines), 0), max(at) from public.%I', of_leaf) into dropped, last_at;
    if dropped = 0 then
        return 0;
    end if;
    if last_at >= older_than then
        raise exception '% has lines of % or later', of_leaf, older_than
            using errcode = 'check_violation', constraint = 'archive_is_old';
    end if;
    execute format($query$
        with hot as (
            select p.id as posting, b.tenant, l.deployment, l.release, l.kind, l.outcome, count(*) as lines,
                count(*) - count(l.energy_uj) as lines_unmetered, sum(l.fuel) as fuel, sum(l.cpu_ns) as cpu_ns,
                sum(l.model_ns) as model_ns, sum(l.bytes_in) as bytes_in, sum(l.bytes_out) as bytes_out,
                sum(l.peak_memory_bytes::numeric * (l.cpu_ns::numeric + l.model_ns)) as memory_byte_ns,
                coalesce(sum(l.energy_uj), 0) as energy_uj
            from public.%I b
            cross join lateral unnest(b.deployment, b.release, b.kind, b.outcome, b.fuel, b.cpu_ns, b.model_ns,
                b.bytes_in, b.bytes_out, b.peak_memory_bytes, b.energy_uj) as l (deployment, release, kind, outcome,
                fuel, cpu_ns, model_ns, bytes_in, bytes_out, peak_memory_bytes, energy_uj)
            left join posting p on p.node = b.node and p.epoch = b.epoch and p.seq = b.seq and p.ended_at = b.at
            group by 1, 2, 3, 4, 5, 6
        )
        select count(*)
        from (
            select from (
                select * from hot
                union all
                select posting, tenant, deployment, release, kind, outcome, -lines, -lines_unmetered, -fuel, -cpu_ns,
                    -model_ns, -bytes_in, -bytes_out, -memory_byte_ns, -coalesce(energy_uj, 0)
                from archive_sum where posting in (select posting from hot)
            ) both_sides
            group by posting, tenant, deployment, release, kind, outcome
            having sum(lines) <> 0 or sum(lines_unmetered) <> 0 or sum(fuel) <> 0 or sum(cpu_ns) <> 0
                or sum(model_ns) <> 0 or sum(bytes_in) <> 0 or sum(bytes_out) <> 0 or sum(memory_byte_ns) <> 0
                or sum(energy_uj) <> 0
        ) mismatch
    $query$, of_leaf) into differing;
    if differing > 0 then
        raise exception '% has lines that are not archived as they are: % sums differ', of_leaf, differing
            using errcode = 'check_violation', constraint = 'archive_is_complete';
    end if;
    execute format($query$
        with gone as (
            insert into archive_drop (archive)
            select distinct s.archive
            from archive_sum s
            where s.posting in (
                select p.id from public.%I b
                join posting p on p.node = b.node and p.epoch = b.epoch and p.seq = b.seq)
            returning archive
        )
        select sum(a.lines)::bigint from archive a join gone on gone.archive = a.id
    $query$, of_leaf) into archived_lines;
    if archived_lines is distinct from dropped then
        raise exception '% has % lines, and its archives %', of_leaf, dropped, archived_lines
            using errcode = 'check_violation', constraint = 'archive_is_complete';
    end if;
    -- In the order in which whoever reads takes them.
    lock table receipt_block in access exclusive mode;
    lock table posting in access exclusive mode;
    execute format('alter table public.receipt_block detach partition public.%I', of_leaf);
    execute format('drop table public.%I', of_leaf);
    execute format('create table public.%I partition of public.receipt_block %s', of_leaf, bounds);
    execute format('create trigger %I before truncate on public.%I
        for each statement execute function public.wattle_append_only()', of_leaf || '_no_truncate', of_leaf);
    return dropped;
end
$$;
