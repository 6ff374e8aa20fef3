-- Energy as it is worth something: what was measured or moved, and what corrections add to it or take off again, in the
-- hour or the span of what they cite. Who reads sees of it what it may see of the tables.

create view corrected with (security_invoker = true) as
select cited.kind, cited.node, c.tenant, c.deployment, cited.began_at, cited.ended_at, c.amount
from correction c
join posting on posting.kind = 'correction' and posting.input_digest = c.digest
join posting cited on cited.hash = c.cites
where c.unit = (select id from unit where code = 'uj');

create view used_in_hour with (security_invoker = true) as
select node, tenant, deployment, hour, energy_uj, cpu_ns, model_ns, lines, lines_unmetered
from usage_hour
union all
select node, tenant, deployment, date_trunc('hour', ended_at, 'UTC'), amount, 0, 0, 0, 0
from corrected where kind = 'window';

create view kept_ready with (security_invoker = true) as
select t.node, t.tenant, t.deployment, p.began_at, t.at as ended_at, t.amount
from transfer t
join posting p on p.node = t.node and p.epoch = t.epoch and p.seq = t.seq
where t.kind = 'allocation' and t.tenant is not null and t.unit = (select id from unit where code = 'uj')
union all
select node, tenant, deployment, began_at, ended_at, amount
from corrected where kind = 'allocation';

grant select on corrected, used_in_hour, kept_ready to wattle_tenant, wattle_billing;
