-- The backend that a release asks for, and what its proof found for each of its graphs. Releases from before
-- asked for none and were proven on none by name.

alter table release add column backend text not null default 'auto';

alter table release_graph
    -- Backend and version, and what the golden check said of it.
    add column backend text,
    add column golden_check text,
    add constraint release_graph_placed_whole check ((backend is null) = (golden_check is null));
