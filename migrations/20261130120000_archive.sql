-- Archives: receipt lines that are older than the limit move to files in the blob store. Postings, their roots and
-- transfers stay, so that nothing is posted twice. Append-only.

-- A file, of whole postings in the order of their windows.
create table archive (
    id bigint primary key generated always as identity,
    -- Of its bytes: their name in the blob store.
    digest bytea not null unique check (octet_length(digest) = 32),
    bytes bigint not null check (bytes > 0),
    postings bigint not null check (postings > 0),
    lines bigint not null check (lines >= postings),
    -- Where the first and the last of its windows end.
    first_at timestamptz not null,
    last_at timestamptz not null check (last_at >= first_at),
    -- The least and the greatest id of its calls: where the lines of a call are looked for.
    first_invocation uuid not null,
    last_invocation uuid not null check (last_invocation >= first_invocation),
    -- When the file had been read back and compared with its postings: there is no row of a file that was not.
    verified_at timestamptz not null default clock_timestamp()
);
create index archive_invocation on archive (first_invocation, last_invocation);

-- What the lines of an archived posting sum up to, by all that they are counted and charged by: a check and a bill
-- need not read the file. As many as transfers, not as calls.
create table archive_sum (
    posting bigint not null references posting (id),
    ordinal integer not null check (ordinal >= 0),
    archive bigint not null references archive,
    tenant uuid not null,
    deployment text,
    release integer,
    kind text not null,
    -- Null for lines that are not the last of their call.
    outcome text,
    lines bigint not null check (lines > 0),
    lines_unmetered bigint not null check (lines_unmetered between 0 and lines),
    -- Numeric, as in the hours of usage: one absurd line must not keep a month in the database.
    fuel numeric not null check (fuel >= 0),
    cpu_ns numeric not null check (cpu_ns >= 0),
    model_ns numeric not null check (model_ns >= 0),
    bytes_in numeric not null check (bytes_in >= 0),
    bytes_out numeric not null check (bytes_out >= 0),
    -- The most memory of each line by its CPU time.
    memory_byte_ns numeric not null check (memory_byte_ns >= 0),
    energy_uj numeric check (energy_uj >= 0),
    -- Runs, rows and CPU time by graph.
    work jsonb not null check (jsonb_typeof(work) = 'array'),
    primary key (posting, ordinal),
    constraint archive_sum_energy_is_known check ((energy_uj is null) = (lines_unmetered = lines))
);
create index archive_sum_archive on archive_sum (archive);
-- Postings are archived in the order in which they end.
create index posting_ended_at on posting (ended_at, id);

-- An archive whose lines have left the database. Until then they stand in both, and the database's count.
create table archive_drop (
    archive bigint primary key references archive,
    dropped_at timestamptz not null default clock_timestamp()
);

do $$
declare
    name text;
begin
    foreach name in array array['archive', 'archive_sum', 'archive_drop'] loop
        execute format('create trigger %I before update or delete on %I
            for each row execute function wattle_append_only()', name || '_append_only', name);
        execute format('create trigger %I before truncate on %I
            for each statement execute function wattle_append_only()', name || '_no_truncate', name);
        execute format('grant select on %I to wattle_billing', name);
    end loop;
end
$$;
grant select, insert (digest, bytes, postings, lines, first_at, last_at, first_invocation, last_invocation)
    on archive to wattle_writer;
grant insert on archive_sum to wattle_writer;
-- The collector leaves its blobs alone.
grant select on archive to wattle_admin;

alter table archive_sum enable row level security, force row level security;
create policy archive_sum_billing on archive_sum for select to wattle_billing using (true);
create policy archive_sum_writer on archive_sum for insert to wattle_writer with check (true);
-- Row-level security is forced on the functions' owner too.
create policy archive_sum_lookup on archive_sum for select to current_user using (true);

-- The sums that stand for lines which are not in the database any more, with their postings.
create view archived with (security_invoker = true) as
select p.id, p.node, p.epoch, p.seq, p.ended_at as at, s.archive, s.tenant, s.deployment, s.release, s.kind, s.outcome,
    case when s.outcome is null then 0 else s.lines end as calls, s.lines, s.lines_unmetered, s.fuel, s.cpu_ns,
    s.model_ns, s.bytes_in, s.bytes_out, s.memory_byte_ns, s.energy_uj, s.work
from archive_sum s
join archive_drop d using (archive)
join posting p on p.id = s.posting;
grant select on archived to wattle_billing;

-- The partitions of receipt lines with rows, all of which are older, the oldest first.
create function wattle_archive_due(older_than timestamptz)
returns table (leaf text, first_at timestamptz, last_at timestamptz)
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
    for leaf in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'public.receipt_line'::regclass
        order by c.relname
    loop
        execute format('select min(at), max(at) from public.%I', leaf) into first_at, last_at;
        if last_at < older_than then
            return next;
        end if;
    end loop;
end
$$;
revoke execute on function wattle_archive_due(timestamptz) from public;
grant execute on function wattle_archive_due(timestamptz) to wattle_billing;

-- Drops a partition of receipt lines, all of which are older and in archives as they are, and puts an empty one in its
-- place, for what comes late. Returns how many lines went. Refuses anything else, by the name of a constraint.
--
-- Nothing is posted until the transaction ends, so end it at once; who reads receipts waits for the last part of it.
create function wattle_archive_drop(of_leaf text, older_than timestamptz) returns bigint
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
    where i.inhparent = 'public.receipt_line'::regclass and c.relname = of_leaf;
    if bounds is null then
        raise exception '% is no partition of receipt lines', of_leaf
            using errcode = 'check_violation', constraint = 'archive_is_of_receipt_lines';
    end if;
    -- In the order in which whoever posts takes them.
    lock table posting in share row exclusive mode;
    execute format('lock table public.%I in share row exclusive mode', of_leaf);
    execute format('select count(*), max(at) from public.%I', of_leaf) into dropped, last_at;
    if dropped = 0 then
        return 0;
    end if;
    if last_at >= older_than then
        raise exception '% has lines of % or later', of_leaf, older_than
            using errcode = 'check_violation', constraint = 'archive_is_old';
    end if;
    execute format($query$
        with hot as (
            select p.id as posting, l.tenant, l.deployment, l.release, l.kind, l.outcome, count(*) as lines,
                count(*) - count(l.energy_uj) as lines_unmetered, sum(l.fuel) as fuel, sum(l.cpu_ns) as cpu_ns,
                sum(l.model_ns) as model_ns, sum(l.bytes_in) as bytes_in, sum(l.bytes_out) as bytes_out,
                sum(l.peak_memory_bytes::numeric * (l.cpu_ns::numeric + l.model_ns)) as memory_byte_ns,
                coalesce(sum(l.energy_uj), 0) as energy_uj
            from public.%I l
            left join posting p on p.node = l.node and p.epoch = l.epoch and p.seq = l.seq and p.ended_at = l.at
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
                select p.id from public.%I l
                join posting p on p.node = l.node and p.epoch = l.epoch and p.seq = l.seq)
            returning archive
        )
        select sum(a.lines)::bigint from archive a join gone on gone.archive = a.id
    $query$, of_leaf) into archived_lines;
    if archived_lines is distinct from dropped then
        raise exception '% has % lines, and its archives %', of_leaf, dropped, archived_lines
            using errcode = 'check_violation', constraint = 'archive_is_complete';
    end if;
    -- In the order in which whoever reads takes them.
    lock table receipt_line in access exclusive mode;
    lock table posting in access exclusive mode;
    execute format('alter table public.receipt_line detach partition public.%I', of_leaf);
    execute format('drop table public.%I', of_leaf);
    execute format('create table public.%I partition of public.receipt_line %s', of_leaf, bounds);
    execute format('create trigger %I before truncate on public.%I
        for each statement execute function public.wattle_append_only()', of_leaf || '_no_truncate', of_leaf);
    return dropped;
end
$$;
revoke execute on function wattle_archive_drop(text, timestamptz) from public;
grant execute on function wattle_archive_drop(text, timestamptz) to wattle_writer;
