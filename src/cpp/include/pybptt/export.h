/* PYBPTT_API marks what the library exports: everything else is hidden. */
#ifndef PYBPTT_EXPORT_H
#define PYBPTT_EXPORT_H

#if defined(PYBPTT_STATIC) /* compiled into something that is not to export it again */
#define PYBPTT_API
#elif defined(_WIN32) /* static alone */
#define PYBPTT_API
#else
#define PYBPTT_API __attribute__((visibility("default")))
#endif

#endif
