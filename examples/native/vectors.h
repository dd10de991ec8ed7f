/* Reads vectors/ and compares: JSON, as much of it as they need (an escape in a string stays as it is written), memory that is
 * given back all at once, and a table of what agrees. Errors end the program. */
#ifndef VECTORS_H
#define VECTORS_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum json_kind { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json {
    enum json_kind kind;
    int seen; /* whether somebody has asked for it */
    double number;
    char* text;         /* of a string */
    size_t count;       /* of an array's or object's parts */
    char** keys;        /* of an object */
    struct json* parts; /* of an array or object */
};

static void json_fail(const char* what, const char* at) {
    fprintf(stderr, "JSON: %s at \"%.30s\"\n", what, at);
    exit(2);
}

static void* json_grow(void* memory, size_t bytes) {
    void* grown = realloc(memory, bytes);
    if (!grown) json_fail("out of memory", "");
    return grown;
}

static const char* json_space(const char* at) { return at + strspn(at, " \t\r\n"); }

static const char* json_text(const char* at, char** text) {
    const char* end = *at == '"' ? at + 1 : NULL;
    if (!end) json_fail("expected a string", at);
    while (*end && *end != '"') end += *end == '\\' && end[1] ? 2 : 1;
    if (!*end) json_fail("string without an end", at);
    const size_t length = (size_t)(end - at - 1);
    *text = json_grow(NULL, length + 1);
    memcpy(*text, at + 1, length); /* an escape stays as it is written */
    (*text)[length] = 0;
    return end + 1;
}

static const char* json_parse(const char* at, struct json* value) {
    static const char* const words[] = {"null", "false", "true"};
    memset(value, 0, sizeof *value);
    at = json_space(at);
    for (int kind = JSON_NULL; kind <= JSON_TRUE; kind++)
        if (!strncmp(at, words[kind], strlen(words[kind]))) {
            value->kind = (enum json_kind)kind;
            return at + strlen(words[kind]);
        }
    if (*at == '"') {
        value->kind = JSON_STRING;
        return json_text(at, &value->text);
    }
    if (*at != '[' && *at != '{') {
        char* end;
        value->kind = JSON_NUMBER;
        value->number = strtod(at, &end);
        if (end == at) json_fail("expected a value", at);
        return end;
    }
    const char close = *at == '[' ? ']' : '}';
    value->kind = *at == '[' ? JSON_ARRAY : JSON_OBJECT;
    at = json_space(at + 1);
    while (*at != close) {
        const size_t n = value->count++;
        value->parts = json_grow(value->parts, value->count * sizeof *value->parts);
        if (value->kind == JSON_OBJECT) {
            value->keys = json_grow(value->keys, value->count * sizeof *value->keys);
            at = json_space(json_text(at, &value->keys[n]));
            if (*at++ != ':') json_fail("expected a colon", at - 1);
        }
        at = json_space(json_parse(at, &value->parts[n]));
        if (*at == ',')
            at = json_space(at + 1);
        else if (*at != close)
            json_fail("expected a comma or an end", at);
    }
    return at + 1;
}

/* What an object has under a name; NULL if it has no such thing, or is NULL itself. */
static struct json* json_get(struct json* object, const char* name) {
    for (size_t i = 0; object && i < object->count; i++)
        if (object->keys && !strcmp(object->keys[i], name)) {
            object->parts[i].seen = 1;
            return &object->parts[i];
        }
    return NULL;
}

/* How many numbers there are in nested arrays; they are written to `to`, if it is not NULL. */
static size_t json_numbers(const struct json* value, double* to) {
    if (value->kind == JSON_NUMBER) {
        if (to) *to = value->number;
        return 1;
    }
    size_t count = 0;
    for (size_t i = 0; i < value->count; i++) count += json_numbers(&value->parts[i], to ? to + count : NULL);
    return count;
}

static void json_free(struct json* value) {
    for (size_t i = 0; i < value->count; i++) {
        if (value->keys) free(value->keys[i]);
        json_free(&value->parts[i]);
    }
    free(value->keys);
    free(value->parts);
    free(value->text);
}

static struct json json_file(const char* path) {
    FILE* file = fopen(path, "rb");
    if (!file) json_fail("cannot be opened", path);
    size_t size = 0, got;
    char* text = json_grow(NULL, 1);
    do {
        text = json_grow(text, size + 65537);
        size += got = fread(text + size, 1, 65536, file);
    } while (got);
    text[size] = 0;
    fclose(file);
    struct json value;
    json_parse(text, &value);
    free(text);
    return value;
}

/* ---- Memory */

static struct block {
    struct block* next;
    double first[];
}* blocks;

static double* zeros(size_t count) { /* until forget() */
    struct block* block = calloc(1, sizeof *block + count * sizeof(double));
    if (!block) exit(2);
    block->next = blocks;
    blocks = block;
    return block->first;
}

static void forget(void) {
    while (blocks) {
        struct block* next = blocks->next;
        free(blocks);
        blocks = next;
    }
}

/* ---- What agrees */

static const double tolerance = 1e-12;

static struct {
    const char *file, *name; /* the case's */
    int compared, wrong;
    double worst;   /* difference, relative to the largest entry of its array */
    char first[24]; /* the first array that is wrong, and at which step, in the order of the work */
    int step;
    int steps, backward, undecided; /* of the arrays at work, while there is a time axis */
} table;

static const double* numbers(struct json* value, size_t count) {
    double* found = zeros(count);
    if (!value || json_numbers(value, NULL) != count) {
        fprintf(stderr, "%s, %s: an array is missing, or is not of %zu numbers\n", table.file, table.name, count);
        exit(2);
    }
    json_numbers(value, found);
    return found;
}

/* Compares what `object` has under the name, if it has it. */
static void compare(struct json* object, const char* name, const double* found, size_t count) {
    struct json* value = json_get(object, name);
    if (!value) return;
    const double* expected = numbers(value, count);
    double largest = 0;
    for (size_t i = 0; i < count; i++) largest = fmax(largest, fabs(expected[i]));
    int step = 0, wrong = 0; /* its first wrong step */
    for (size_t i = 0; i < count; i++) {
        const double d = fabs(found[i] - expected[i]) / (largest > 0 ? largest : 1);
        if (isnan(d) || d > table.worst) table.worst = d; /* and NaN stays: nothing is more */
        if (d <= tolerance) continue;                     /* NaN is not */
        const int t = table.steps ? (int)(i / (count / (size_t)table.steps)) + 1 : 0;
        if (!wrong++ || table.backward) step = t;
    }
    table.compared++;
    if (!wrong) return;
    if (!table.wrong++ || (table.undecided && (table.backward ? step > table.step : step < table.step))) {
        snprintf(table.first, sizeof table.first, "%s", name);
        table.step = step;
    }
}

/* What is compared from here on has these steps for its first axis, or none. */
static void compare_from(int steps, int backward) {
    table.steps = steps, table.backward = backward;
    table.undecided = steps && !table.wrong;
}

/* Whether every array in here has been asked for: a value that nobody compares is no success. */
static int all_seen(const struct json* value, const char* name) {
    int all = 1;
    if (value->kind == JSON_OBJECT)
        for (size_t i = 0; i < value->count; i++) all &= all_seen(&value->parts[i], value->keys[i]);
    else if (value->kind == JSON_ARRAY && value->count && value->parts[0].kind == JSON_OBJECT)
        for (size_t i = 0; i < value->count; i++) all &= all_seen(&value->parts[i], name);
    else if (!value->seen)
        all = 0, printf("%s, %s: %s was not compared\n", table.file, table.name, name);
    return all;
}

static int size_of(struct json* sizes, const char* name) {
    struct json* found = json_get(sizes, name);
    return found ? (int)found->number : 0;
}

static int is(struct json* object, const char* name, const char* text) {
    struct json* found = json_get(object, name);
    return found && (text ? found->text && !strcmp(found->text, text) : found->kind == JSON_TRUE);
}

static void take(struct json* object, const char* name, double* to, size_t count) {
    struct json* found = json_get(object, name);
    if (found) memcpy(to, numbers(found, count), count * sizeof(double));
}

#endif
