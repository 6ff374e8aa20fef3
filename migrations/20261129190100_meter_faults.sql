-- What was wrong with a root's meter within a window: its energy there is nobody's.
alter table posting_root
    add column faults text[] not null default '{}'
        check (faults <@ array['silent', 'unreadable', 'malformed', 'fell', 'jumped', 'rebased', 'gap',
            'stood_still']);
