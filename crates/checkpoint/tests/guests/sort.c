// Records in C: sorted through function pointers, kept in lists and tables, and printed.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct record {
    uint64_t key;
    double weight;
    char name[24];
    struct record *next;
};

typedef int (*order)(const void *, const void *);

static int by_key(const void *left, const void *right) {
    uint64_t a = (*(struct record *const *)left)->key, b = (*(struct record *const *)right)->key;
    return (a > b) - (a < b);
}

static int by_weight(const void *left, const void *right) {
    double a = (*(struct record *const *)left)->weight, b = (*(struct record *const *)right)->weight;
    return (a > b) - (a < b);
}

static int by_name(const void *left, const void *right) {
    return strcmp((*(struct record *const *)left)->name, (*(struct record *const *)right)->name);
}

static uint64_t next_number(uint64_t *state) {
    *state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
    return *state >> 20;
}

int main(int count, char **arguments) {
    enum { RECORDS = 1500, BUCKETS = 64 };
    static const order orders[] = {by_key, by_weight, by_name};
    int rounds = count > 1 ? atoi(arguments[1]) : 1;
    for (int round = 0; round < rounds; round++) {
        uint64_t state = 42;
        struct record *buckets[BUCKETS] = {0};
        struct record **all = malloc(RECORDS * sizeof *all);
        for (int index = 0; index < RECORDS; index++) {
            struct record *record = calloc(1, sizeof *record);
            record->key = next_number(&state);
            record->weight = (double)(next_number(&state) % 100000) / 7.0;
            snprintf(record->name, sizeof record->name, "r%05u-%g", (unsigned)(record->key % 99991), record->weight);
            record->next = buckets[record->key % BUCKETS];
            buckets[record->key % BUCKETS] = record;
            all[index] = record;
        }
        for (size_t which = 0; which < sizeof orders / sizeof *orders; which++) {
            qsort(all, RECORDS, sizeof *all, orders[which]);
            printf("%s %llu %.6f\n", all[0]->name, (unsigned long long)all[RECORDS / 2]->key, all[RECORDS - 1]->weight);
        }
        double longest = 0, sum = 0;
        for (int bucket = 0; bucket < BUCKETS; bucket++) {
            double length = 0;
            for (struct record *at = buckets[bucket]; at; at = at->next) length++, sum += at->weight;
            if (length > longest) longest = length;
        }
        printf("%.0f %.9f\n", longest, sum);
        for (int index = 0; index < RECORDS; index++) free(all[index]);
        free(all);
    }
    return 0;
}
