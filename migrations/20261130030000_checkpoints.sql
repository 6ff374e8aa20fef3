-- Checkpoints: signed statements of what the ledger holds, and the keys that sign them. Append-only.
--
-- As in the ledger, nothing here refers to tenancy.

create table signer (
    key bytea primary key check (octet_length(key) = 32),
    -- The node on which it signs.
    node uuid not null,
    since timestamptz not null,
    -- The key that it took over from, and that one's signature over both and the instant; null for the first of a
    -- data directory. A key is followed once.
    follows bytea unique references signer,
    endorsement bytea check (octet_length(endorsement) = 64),
    added_at timestamptz not null default clock_timestamp(),
    constraint signer_is_endorsed_by_whom_it_follows check ((follows is null) = (endorsement is null))
);

create table checkpoint (
    number bigint primary key check (number > 0),
    at timestamptz not null,
    -- No two follow the same one, and only one is the first.
    prev_hash bytea not null unique check (octet_length(prev_hash) = 32),
    postings bigint not null check (postings >= 0),
    merkle_root bytea not null check (octet_length(merkle_root) = 32),
    heads_root bytea not null check (octet_length(heads_root) = 32),
    signer bytea not null references signer,
    signature bytea not null check (octet_length(signature) = 64),
    hash bytea not null unique check (octet_length(hash) = 32),
    -- The tree's leaves, 32 bytes each: a posting that was rewritten is found by the leaf that it does not have.
    leaves bytea not null,
    made_at timestamptz not null default clock_timestamp(),
    constraint checkpoint_has_its_leaves check (octet_length(leaves) = 32 * postings)
);

-- Where every node's chain ended.
create table checkpoint_head (
    number bigint not null references checkpoint,
    node uuid not null,
    epoch uuid not null,
    seq bigint not null check (seq >= 0),
    hash bytea not null check (octet_length(hash) = 32),
    -- The head's place in the ledger: what the next checkpoint covers of the node comes after it.
    posting bigint not null,
    primary key (number, node)
);
-- The first checkpoint that covers a posting.
create index checkpoint_head_posting on checkpoint_head (node, posting, number);

do $$
declare
    name text;
begin
    foreach name in array array['signer', 'checkpoint', 'checkpoint_head'] loop
        execute format('create trigger %I before update or delete on %I
            for each row execute function wattle_append_only()', name || '_append_only', name);
        execute format('create trigger %I before truncate on %I
            for each statement execute function wattle_append_only()', name || '_no_truncate', name);
    end loop;
end
$$;

grant select on signer, checkpoint, checkpoint_head to wattle_billing, wattle_writer;
grant insert on checkpoint, checkpoint_head to wattle_writer;
-- The administration lists a host's key, and sees when it was last used.
grant select on signer, checkpoint to wattle_admin;
grant insert (key, node, since, follows, endorsement) on signer to wattle_admin;
-- Digests and places alone: a tenant sees whether its receipts are covered.
grant select (number, node, posting) on checkpoint_head to wattle_tenant;
