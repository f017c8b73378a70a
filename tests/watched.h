// WATCHED: 1 in a build whose code a sanitizer slows down: what is promised of times is not held there, and long tests take fewer cases.
#ifndef ZMLX_TEST_WATCHED_H
#define ZMLX_TEST_WATCHED_H

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define WATCHED 1
#else
#define WATCHED 0
#endif

#endif
