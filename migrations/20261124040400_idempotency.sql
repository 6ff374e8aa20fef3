-- Management calls under an idempotency key, each with its result, for ever. A row without a result is the claim
-- of a call that runs; the result comes in the transaction of the call's effect.

create table idempotency (
    -- Whose key: null for the platform's.
    tenant uuid references tenant,
    role text not null,
    key text not null check (key ~ '^[!-~]{1,255}$'),
    -- Who works on it. A call whose claim was taken over must not commit.
    claim uuid not null,
    node uuid not null,
    claimed_at timestamptz not null,
    -- The digest of method, path and body.
    request bytea check (octet_length(request) = 32),
    status smallint,
    body text,
    unique nulls not distinct (tenant, role, key),
    constraint idempotency_result_is_whole check (num_nulls(request, status, body) in (0, 3))
);
create index idempotency_running on idempotency (node) where status is null;

alter table idempotency enable row level security, force row level security;
grant select, insert, update (claim, node, claimed_at, request, status, body), delete
    on idempotency to wattle_tenant, wattle_admin;
create policy idempotency_own on idempotency to wattle_tenant using (tenant = wattle_current_tenant());
-- The platform's own; and what a host that starts had claimed for anyone, to let go of it.
create policy idempotency_platform on idempotency to wattle_admin
    using (tenant is null or status is null) with check (tenant is null);

create trigger idempotency_result_stays before update or delete on idempotency
    for each row when (old.status is not null) execute function wattle_append_only();
create trigger idempotency_no_truncate before truncate on idempotency
    for each statement execute function wattle_append_only();
