-- What is under a posting is of one that is there: looked at once for all rows that come together, which are of one posting
-- almost always. A foreign key looks for each row by itself, and took two fifths of the time of posting.

-- The keys' names are Postgres's own; those of partitions go with them.
do $$
declare
    found record;
begin
    for found in
        select conrelid::regclass as child, conname
        from pg_constraint
        where conrelid in ('public.receipt_line'::regclass, 'public.transfer'::regclass) and contype = 'f'
            and confrelid = 'public.posting'::regclass and cardinality(conkey) > 1
    loop
        execute format('alter table %s drop constraint %I', found.child, found.conname);
    end loop;
end
$$;

create function wattle_has_posting() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
    if exists (
        select from (select distinct node, epoch, seq, at from added) a
        where not exists (
            select from posting p
            where p.node = a.node and p.epoch = a.epoch and p.seq = a.seq and p.ended_at = a.at
        )
    ) then
        raise exception 'rows of % are of a posting that is not there', tg_table_name
            using errcode = 'foreign_key_violation', table = tg_table_name, constraint = tg_name;
    end if;
    return null;
end
$$;
revoke execute on function wattle_has_posting() from public;

create trigger receipt_line_posting after insert on receipt_line
    referencing new table as added for each statement execute function wattle_has_posting();
create trigger transfer_posting after insert on transfer
    referencing new table as added for each statement execute function wattle_has_posting();
