// A JavaScript engine that runs one script: objects, closures, text, sorting, exceptions and floats.
#include <stdio.h>
#include <stdlib.h>

#include "quickjs.h"

static const char SCRIPT[] =
    "function sieve(limit) {\n"
    "  const crossed = new Uint8Array(limit); const primes = [];\n"
    "  for (let n = 2; n < limit; n++) {\n"
    "    if (crossed[n]) continue;\n"
    "    primes.push(n);\n"
    "    for (let m = n * n; m < limit; m += n) crossed[m] = 1;\n"
    "  }\n"
    "  return primes;\n"
    "}\n"
    "class Shape { constructor(name) { this.name = name; } area() { return 0; } }\n"
    "class Disc extends Shape { constructor(r) { super('disc' + r); this.r = r; } area() { return Math.PI * this.r * this.r; } }\n"
    "class Box extends Shape { constructor(a) { super('box' + a); this.a = a; } area() { return this.a ** 2; } }\n"
    "const counted = new Map();\n"
    "for (const word of 'the cat and the dog and the bird'.repeat(40).split(/\\s+/)) counted.set(word, (counted.get(word) || 0) + 1);\n"
    "const shapes = []; for (let i = 1; i < 60; i++) shapes.push(i % 2 ? new Disc(i / 3) : new Box(i / 2));\n"
    "shapes.sort((left, right) => right.area() - left.area());\n"
    "let caught = 0; for (let i = 0; i < 50; i++) { try { if (i % 3) throw new Error('e' + i); } catch (e) { caught += e.message.length; } }\n"
    "function* steps(n) { let a = 0n, b = 1n; for (let i = 0; i < n; i++) { yield a; [a, b] = [b, a + b]; } }\n"
    "let last; for (const step of steps(150)) last = step;\n"
    "print(sieve(4000).length, JSON.stringify([...counted]), shapes[0].name, shapes[3].area().toFixed(9), caught, last.toString());\n"
    "print(JSON.stringify(JSON.parse(JSON.stringify(shapes.slice(0, 5)))));\n";

static JSValue print(JSContext *context, JSValueConst self, int count, JSValueConst *values) {
    (void)self;
    for (int index = 0; index < count; index++) {
        const char *text = JS_ToCString(context, values[index]);
        printf("%s%s", index ? " " : "", text ? text : "?");
        JS_FreeCString(context, text);
    }
    printf("\n");
    return JS_UNDEFINED;
}

int main(int count, char **arguments) {
    int rounds = count > 1 ? atoi(arguments[1]) : 1;
    JSRuntime *runtime = JS_NewRuntime();
    for (int round = 0; round < rounds; round++) {
        JSContext *context = JS_NewContext(runtime);
        JSValue global = JS_GetGlobalObject(context);
        JS_SetPropertyStr(context, global, "print", JS_NewCFunction(context, print, "print", 1));
        JS_FreeValue(context, global);
        JSValue value = JS_Eval(context, SCRIPT, sizeof SCRIPT - 1, "script.js", JS_EVAL_TYPE_GLOBAL);
        if (JS_IsException(value)) {
            JSValue error = JS_GetException(context);
            const char *text = JS_ToCString(context, error);
            printf("failed: %s\n", text ? text : "?");
            return 1;
        }
        JS_FreeValue(context, value);
        JS_FreeContext(context);
    }
    fflush(stdout);
    return 0;
}
