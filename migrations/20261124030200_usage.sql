-- Usage by the hour, rolled up from receipt lines by the statement that inserts them: a posting that is
-- there already adds nothing here either, and a month is read without reading its calls.
--
-- A line counts in the hour (UTC) in which its window ends, as its transfers do; a call in the hour of its
-- last line, the one with its outcome. A roll-up cannot be append-only, but it can only grow.

create table usage_hour (
    hour timestamptz not null check (hour = date_trunc('hour', hour, 'UTC')),
    -- Part of the key, so that no two nodes wait for each other.
    node uuid not null,
    tenant uuid not null,
    deployment text,
    kind text not null,
    -- How the calls ended; null for lines that are not the last of their call.
    outcome text,
    calls bigint not null check (calls >= 0),
    lines bigint not null check (lines > 0),
    -- Lines whose energy no reading covers; the others' is in the sum, which is null where there are none.
    lines_unmetered bigint not null check (lines_unmetered between 0 and lines),
    -- Numeric: one absurd line must not keep a window out of the ledger.
    fuel numeric not null check (fuel >= 0),
    cpu_ns numeric not null check (cpu_ns >= 0),
    model_ns numeric not null check (model_ns >= 0),
    bytes_in numeric not null check (bytes_in >= 0),
    bytes_out numeric not null check (bytes_out >= 0),
    energy_uj numeric check (energy_uj >= 0),
    constraint usage_hour_energy_is_known check ((energy_uj is null) = (lines_unmetered = lines))
);
create unique index usage_hour_key
    on usage_hour (tenant, hour, node, coalesce(deployment, ''), kind, coalesce(outcome, ''));
create index usage_hour_hour on usage_hour (hour);

create function wattle_usage_grows() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if (new.hour, new.node, new.tenant, new.deployment, new.kind, new.outcome)
            is distinct from (old.hour, old.node, old.tenant, old.deployment, old.kind, old.outcome)
        or new.calls < old.calls or new.lines <= old.lines or new.lines_unmetered < old.lines_unmetered
        or new.fuel < old.fuel or new.cpu_ns < old.cpu_ns or new.model_ns < old.model_ns
        or new.bytes_in < old.bytes_in or new.bytes_out < old.bytes_out
        or coalesce(new.energy_uj, -1) < coalesce(old.energy_uj, -1)
    then
        raise exception 'usage only grows' using errcode = 'restrict_violation';
    end if;
    return new;
end
$$;
revoke execute on function wattle_usage_grows() from public;
create trigger usage_hour_grows before update on usage_hour
    for each row execute function wattle_usage_grows();
create trigger usage_hour_no_delete before delete on usage_hour
    for each row execute function wattle_append_only();
create trigger usage_hour_no_truncate before truncate on usage_hour
    for each statement execute function wattle_append_only();

-- What the ledger has already. Its row-level security is forced on the owner too, who has no policy.
alter table receipt_line no force row level security;
insert into usage_hour
select date_trunc('hour', at, 'UTC'), node, tenant, deployment, kind, outcome, count(outcome), count(*),
    count(*) - count(energy_uj), sum(fuel), sum(cpu_ns), sum(model_ns), sum(bytes_in), sum(bytes_out),
    sum(energy_uj)
from receipt_line
group by 1, 2, 3, 4, 5, 6;
alter table receipt_line force row level security;

grant select on usage_hour to wattle_tenant, wattle_billing;
grant select, insert, update (calls, lines, lines_unmetered, fuel, cpu_ns, model_ns, bytes_in, bytes_out, energy_uj)
    on usage_hour to wattle_writer;
alter table usage_hour enable row level security, force row level security;
create policy usage_hour_own on usage_hour for select to wattle_tenant
    using (tenant = wattle_current_tenant());
create policy usage_hour_billing on usage_hour for select to wattle_billing using (true);
create policy usage_hour_writer on usage_hour to wattle_writer using (true);
