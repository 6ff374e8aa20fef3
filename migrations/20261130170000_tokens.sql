-- Tokens: elements of the input `input_ids` of graphs that have one. They are counted with the work of models, rolled up
-- by graph and hour, and priced by the million.

alter table price_plan
    add per_megatoken numeric(19, 12) not null default 0 check (per_megatoken between 0 and 1000000);
alter table price_plan alter per_megatoken drop default;

alter table charge drop constraint charge_item_check;
alter table charge add constraint charge_item_check
    check (item in ('energy', 'fuel', 'memory', 'token', 'call', 'flat', 'carbon'));

-- Nobody counted any before.
alter table usage_graph_hour add tokens numeric not null default 0 check (tokens >= 0);
alter table usage_graph_hour alter tokens drop default;
grant update (tokens) on usage_graph_hour to wattle_writer;
drop trigger usage_graph_hour_grows on usage_graph_hour;
create trigger usage_graph_hour_grows before update on usage_graph_hour
    for each row when (
        (new.hour, new.node, new.tenant, new.deployment, new.graph)
            is distinct from (old.hour, old.node, old.tenant, old.deployment, old.graph)
        or new.runs < old.runs or new.rows < old.rows or new.cpu_ns < old.cpu_ns or new.tokens < old.tokens
    )
    execute function wattle_usage_shrinks();
