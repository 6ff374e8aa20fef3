"""Makes yearly.csv, the yearly carbon intensities that are embedded in the host.

    python3 -m pip download --no-deps codecarbon==3.3.2 pycountry==26.2.16
    python3 yearly.py codecarbon-*.whl pycountry-*.whl > yearly.csv

codecarbon's wheel carries what Our World in Data makes of Ember's yearly electricity data; pycountry's is only asked
which two letters of ISO 3166-1 stand for which three. See README.md for sources and licences.
"""

import json
import sys
import zipfile
from decimal import ROUND_HALF_UP, Decimal

HEADER = """\
# Yearly carbon intensity of electricity by country: life cycle, of what is generated in it.
# Source: Ember, Yearly Electricity Data, with major processing by Our World in Data; CC BY 4.0. See README.md.
zone,alpha3,year,mg_per_kwh
"""

# Our World in Data names Kosovo by a code of its own, and everyone uses the two letters.
EXTRA = {"XKX": "XK"}


def member(wheel, name):
    with zipfile.ZipFile(wheel) as archive:
        return json.loads(archive.read(name), parse_float=Decimal)


def main(codecarbon, pycountry):
    countries = member(codecarbon, "codecarbon/data/private_infra/global_energy_mix.json")
    codes = member(pycountry, "pycountry/databases/iso3166-1.json")["3166-1"]
    alpha2 = EXTRA | {code["alpha_3"]: code["alpha_2"] for code in codes}
    rows = []
    for alpha3, country in countries.items():
        intensity = Decimal(country["carbon_intensity"] or 0)
        # No grid's life cycle is free of carbon: a 0 there is a figure that is missing.
        if intensity > 0:
            milligrams = (intensity * 1000).quantize(Decimal(1), ROUND_HALF_UP)
            rows.append(f"{alpha2[alpha3]},{alpha3},{country['year']},{milligrams}\n")
    sys.stdout.write(HEADER + "".join(sorted(rows)))


main(*sys.argv[1:])
