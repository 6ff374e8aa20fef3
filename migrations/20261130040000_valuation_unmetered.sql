-- Where no reading covers any of a valuation's use, its energy is null and not 0. What was kept before stays as it is.

alter table valuation
    alter column energy_uj drop not null,
    drop constraint valuation_covers_what_there_is,
    add constraint valuation_covers_what_there_is check (
        location_covered_uj between 0 and coalesce(energy_uj, 0)
        and market_covered_uj between 0 and coalesce(energy_uj, 0)
        and marginal_covered_uj between 0 and coalesce(energy_uj, 0)
        and water_covered_uj between 0 and coalesce(energy_uj, 0)
        and embodied_ns between 0 and cpu_ns),
    -- What was metered may have taken 0; what was allocated has no lines.
    add constraint valuation_energy_is_metered check (
        energy_uj is not null or (lines = lines_unmetered));
