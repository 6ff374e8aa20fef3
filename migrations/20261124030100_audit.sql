-- The audit trail: who did what. An act and its line are one transaction, so there is neither without the
-- other. Nothing here refers to tenancy, as in the ledger: the trail keeps ids and names for ever.

create table audit_event (
    id bigint primary key generated always as identity,
    at timestamptz not null default now(),
    -- With what the act was done: a bearer key, or one of the two secrets that make admin keys.
    actor text not null check (actor in ('key', 'bootstrap', 'recovery')),
    key uuid,
    role text not null
        check (role in ('admin', 'billing', 'auditor', 'tenant:manage', 'tenant:invoke', 'tenant:read')),
    -- Whom it concerns; null for the platform.
    tenant uuid,
    action text not null check (action ~ '^[a-z_]+\.[a-z_]+$'),
    -- The id or the name of what was acted on.
    object text not null,
    -- What else there is to know, such as the digest of an upload. Never a secret.
    details jsonb not null check (jsonb_typeof(details) = 'object' and octet_length(details::text) <= 4096),
    constraint audit_event_key_fits_actor check ((key is not null) = (actor = 'key'))
);
-- Read newest first, by all and by tenant.
create index audit_event_at on audit_event (at, id);
create index audit_event_tenant_at on audit_event (tenant, at, id);

create trigger audit_event_append_only before update or delete on audit_event
    for each row execute function wattle_append_only();
create trigger audit_event_no_truncate before truncate on audit_event
    for each statement execute function wattle_append_only();

grant select, insert on audit_event to wattle_admin, wattle_tenant;
grant select on audit_event to wattle_billing;
alter table audit_event enable row level security, force row level security;
create policy audit_event_admin on audit_event to wattle_admin using (true);
create policy audit_event_billing on audit_event for select to wattle_billing using (true);
create policy audit_event_own on audit_event to wattle_tenant using (tenant = wattle_current_tenant());
