/* PYBPTT_API marks what the library exports: everything else is hidden. */
#ifndef PYBPTT_EXPORT_H
#define PYBPTT_EXPORT_H

#if defined(PYBPTT_STATIC) /* compiled into something that is not to export it again */
#define PYBPTT_API
#elif !defined(_WIN32)
#define PYBPTT_API __attribute__((visibility("default")))
#elif defined(PYBPTT_EXPORTS)
#define PYBPTT_API __declspec(dllexport)
#else /* functions need no dllimport */
#define PYBPTT_API
#endif

#endif
