-- Model work by the hour and graph, rolled up like usage_hour by the statement that adds the lines, and kept when they
-- are archived. Energy is not split by graph: a line's is its call's as a whole.

create table usage_graph_hour (
    hour timestamptz not null check (hour = date_trunc('hour', hour, 'UTC')),
    -- Part of the key, so that no two nodes wait for each other.
    node uuid not null,
    tenant uuid not null,
    deployment text,
    -- The graph's digest.
    graph text not null,
    -- Numeric: one absurd line must not keep a window out of the ledger.
    runs numeric not null check (runs >= 0),
    rows numeric not null check (rows >= 0),
    cpu_ns numeric not null check (cpu_ns >= 0)
);
create unique index usage_graph_hour_key on usage_graph_hour (tenant, hour, node, coalesce(deployment, ''), graph);
create index usage_graph_hour_hour on usage_graph_hour (hour);

-- Roll-ups are updated by every posting, so it is the trigger that looks, and a function is called to refuse alone.
create function wattle_usage_shrinks() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'usage only grows' using errcode = 'restrict_violation';
end
$$;
revoke execute on function wattle_usage_shrinks() from public;

create trigger usage_graph_hour_grows before update on usage_graph_hour
    for each row when (
        (new.hour, new.node, new.tenant, new.deployment, new.graph)
            is distinct from (old.hour, old.node, old.tenant, old.deployment, old.graph)
        or new.runs < old.runs or new.rows < old.rows or new.cpu_ns < old.cpu_ns
    )
    execute function wattle_usage_shrinks();
drop trigger usage_hour_grows on usage_hour;
drop function wattle_usage_grows();
create trigger usage_hour_grows before update on usage_hour
    for each row when (
        (new.hour, new.node, new.tenant, new.deployment, new.kind, new.outcome)
            is distinct from (old.hour, old.node, old.tenant, old.deployment, old.kind, old.outcome)
        or new.calls < old.calls or new.lines <= old.lines or new.lines_unmetered < old.lines_unmetered
        or new.fuel < old.fuel or new.cpu_ns < old.cpu_ns or new.model_ns < old.model_ns
        or new.bytes_in < old.bytes_in or new.bytes_out < old.bytes_out
        or coalesce(new.energy_uj, -1) < coalesce(old.energy_uj, -1)
    )
    execute function wattle_usage_shrinks();
create trigger usage_graph_hour_no_delete before delete on usage_graph_hour
    for each row execute function wattle_append_only();
create trigger usage_graph_hour_no_truncate before truncate on usage_graph_hour
    for each statement execute function wattle_append_only();

-- What the ledger has already. Row-level security is forced on the owner too, who has no policy for lines.
alter table receipt_line no force row level security;
insert into usage_graph_hour
select date_trunc('hour', l.at, 'UTC'), l.node, l.tenant, l.deployment, w.graph, sum(w.runs), sum(w.rows),
    sum(w.cpu_ns)
from (
    select at, node, tenant, deployment, work from receipt_line
    union all
    select at, node, tenant, deployment, work from archived
) l
cross join lateral jsonb_to_recordset(l.work) as w (graph text, runs numeric, rows numeric, cpu_ns numeric)
group by 1, 2, 3, 4, 5;
alter table receipt_line force row level security;

grant select on usage_graph_hour to wattle_tenant, wattle_billing;
grant select, insert, update (runs, rows, cpu_ns) on usage_graph_hour to wattle_writer;
alter table usage_graph_hour enable row level security, force row level security;
create policy usage_graph_hour_own on usage_graph_hour for select to wattle_tenant
    using (tenant = wattle_current_tenant());
create policy usage_graph_hour_billing on usage_graph_hour for select to wattle_billing using (true);
create policy usage_graph_hour_writer on usage_graph_hour to wattle_writer using (true);
