/* A stand-in for NVIDIA's management library, for tests: it says what the file beside it says.
 *
 * The file has the library's own path and ".state" behind it, so that every copy of the library is a machine of
 * its own, and is read at every call, so that a test can change the machine in mid-run. It has one "key value"
 * a line, numbers but for the names:
 *
 *   devices 2            how many GPUs there are
 *   init 9               what nvmlInit_v2 returns
 *   init_ms 500          how long that takes
 *   load 1               the driver's load: a library that was initialised under another has lost the driver
 *   gone 9               what calls return then (default: driver not loaded)
 *   0.uuid GPU-...       and 0.name
 *   0.handle 15          what asking for the GPU returns
 *   0.energy_mj 5        and 0.energy, what asking for that returns; so for 0.power_mw, 0.limit_mw and 0.mig
 *   0.samples 9          how many samples of use there are: 0.sample.0 is "microseconds percent"
 *   0.processes 2        how many processes: 0.process.0 is "pid microseconds percent"
 *
 * Each initialisation and shutdown adds a line to the file with ".log" behind it.
 *
 * WITHOUT_INIT leaves out all but one function, WITHOUT_ENERGY the counter, as in libraries before Volta. Numbers
 * and types are those of NVML's interface, version 12.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NO_DRIVER = 9 };
enum { MAX_DEVICES = 16, LINE = 256 };

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    snprintf(version, length, "570.0.1");
    return SUCCESS;
}

#ifndef WITHOUT_INIT

static const char *beside(const char *ending) {
    static __thread char path[4096];
    Dl_info here;
    if (!dladdr((void *)&beside, &here)) abort();
    snprintf(path, sizeof path, "%s%s", here.dli_fname, ending);
    return path;
}

/* The value of a key; 0 if it is not there. */
static int text(const char *key, char *value) {
    FILE *file = fopen(beside(".state"), "r");
    char line[LINE];
    int found = 0;
    if (!file) return 0;
    while (!found && fgets(line, sizeof line, file)) {
        size_t length = strlen(key);
        if (strncmp(line, key, length) == 0 && line[length] == ' ') {
            line[strcspn(line, "\n")] = 0;
            strcpy(value, line + length + 1);
            found = 1;
        }
    }
    fclose(file);
    return found;
}

static unsigned long long number(const char *key, unsigned long long otherwise) {
    char value[LINE];
    return text(key, value) ? strtoull(value, NULL, 10) : otherwise;
}

static int users;
static unsigned long long load_at_init;
static int devices[MAX_DEVICES];

static void note(const char *what) {
    FILE *log = fopen(beside(".log"), "a");
    if (log) {
        fprintf(log, "%s\n", what);
        fclose(log);
    }
}

/* Like the driver, which goes on with who has it until all have let go. */
int nvmlInit_v2(void) {
    int code = (int)number("init", SUCCESS);
    usleep((useconds_t)number("init_ms", 0) * 1000);
    note("init");
    if (code) return code;
    if (__sync_fetch_and_add(&users, 1) == 0) load_at_init = number("load", 0);
    return SUCCESS;
}

int nvmlShutdown(void) {
    note("shutdown");
    if (users == 0) return UNINITIALIZED;
    __sync_fetch_and_sub(&users, 1);
    return SUCCESS;
}

static int ready(void) {
    if (users == 0) return UNINITIALIZED;
    return load_at_init == number("load", 0) ? SUCCESS : (int)number("gone", NO_DRIVER);
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    int code = ready();
    if (!code) *count = (unsigned)number("devices", 0);
    return code;
}

static unsigned long long of_device(const int *device, const char *what, unsigned long long otherwise) {
    char key[64];
    snprintf(key, sizeof key, "%d.%s", (int)(device - devices), what);
    return number(key, otherwise);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    int code = ready();
    if (code) return code;
    if (index >= number("devices", 0) || index >= MAX_DEVICES) return INVALID;
    *device = &devices[index];
    return (int)of_device(&devices[index], "handle", SUCCESS);
}

static int name(int *device, const char *what, char *value, unsigned length) {
    char key[64], found[LINE];
    int code = ready();
    if (code) return code;
    snprintf(key, sizeof key, "%d.%s", (int)(device - devices), what);
    if (!text(key, found)) return UNSUPPORTED;
    snprintf(value, length, "%s", found);
    return SUCCESS;
}

int nvmlDeviceGetUUID(int *device, char *uuid, unsigned length) { return name(device, "uuid", uuid, length); }

int nvmlDeviceGetName(int *device, char *value, unsigned length) { return name(device, "name", value, length); }

/* A number that the GPU may not have. */
static int value(int *device, const char *code_key, const char *what, unsigned long long *found) {
    const unsigned long long none = (unsigned long long)-1;
    int code = ready();
    if (!code) code = (int)of_device(device, code_key, SUCCESS);
    if (code) return code;
    *found = of_device(device, what, none);
    return *found == none ? UNSUPPORTED : SUCCESS;
}

#ifndef WITHOUT_ENERGY
int nvmlDeviceGetTotalEnergyConsumption(int *device, unsigned long long *energy_mj) {
    return value(device, "energy", "energy_mj", energy_mj);
}
#endif

int nvmlDeviceGetPowerUsage(int *device, unsigned *power_mw) {
    unsigned long long found = 0;
    int code = value(device, "power", "power_mw", &found);
    *power_mw = (unsigned)found;
    return code;
}

int nvmlDeviceGetPowerManagementLimitConstraints(int *device, unsigned *least_mw, unsigned *most_mw) {
    unsigned long long found = 0;
    int code = value(device, "limit", "limit_mw", &found);
    *least_mw = 0;
    *most_mw = (unsigned)found;
    return code;
}

int nvmlDeviceGetMigMode(int *device, unsigned *now, unsigned *pending) {
    unsigned long long found = 0;
    int code = value(device, "mig_code", "mig", &found);
    *now = *pending = (unsigned)found;
    return code;
}

struct sample {
    unsigned long long at_us;
    union {
        double d;
        unsigned u;
        unsigned long long ull;
    } value;
};

int nvmlDeviceGetSamples(int *device, int kind, unsigned long long after_us, int *type, unsigned *count,
                         struct sample *samples) {
    unsigned long long all = 0, at_us;
    unsigned percent, taken = 0, n;
    char key[64], line[LINE];
    int code = value(device, "samples_code", "samples", &all);
    if (code) return code;
    if (kind != 1) return INVALID;
    *type = 1;
    for (n = 0; n < all; n++) {
        snprintf(key, sizeof key, "%d.sample.%u", (int)(device - devices), n);
        if (!text(key, line) || sscanf(line, "%llu %u", &at_us, &percent) != 2 || at_us <= after_us) continue;
        if (samples && taken < *count) {
            samples[taken].at_us = at_us;
            samples[taken].value.u = percent;
        }
        taken++;
    }
    if (taken == 0) return NOT_FOUND;
    *count = taken;
    return SUCCESS;
}

struct process {
    unsigned pid;
    unsigned long long at_us;
    unsigned sm, memory, encoder, decoder;
};

int nvmlDeviceGetProcessUtilization(int *device, struct process *processes, unsigned *count,
                                    unsigned long long after_us) {
    unsigned long long all = 0;
    unsigned taken = 0, n;
    char key[64], line[LINE];
    struct process found = {0};
    int code = value(device, "processes_code", "processes", &all);
    if (code) return code;
    for (n = 0; n < all; n++) {
        snprintf(key, sizeof key, "%d.process.%u", (int)(device - devices), n);
        if (!text(key, line) || sscanf(line, "%u %llu %u", &found.pid, &found.at_us, &found.sm) != 3) continue;
        /* The driver leaves places empty when it has less to say than it said it would. */
        if (found.at_us <= after_us && found.at_us != 0) continue;
        if (processes && taken < *count) processes[taken] = found;
        taken++;
    }
    if (taken == 0) return NOT_FOUND;
    code = processes ? SUCCESS : TOO_SMALL;
    *count = taken;
    return code;
}

#endif
